"""Operators that take a part of their input, or put a border around it."""

from typing import Any

import numpy as np

from ....layers.indexing import Gather, Slice
from ....layers.pad_axes import PadAxes
from ....layers.reshape import Pad
from ..handlers import handler
from ..op import Op
from ..values import PROBES, Tensor, Value, constant


def _slice(op: Op, starts: Any, ends: Any, axes: Any, steps: Any) -> Tensor:
    x = op.tensor(0)
    if starts is None or ends is None or len(starts) != len(ends):
        op.refuse("its starts and ends are missing, or differ in number")
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(axes) == len(steps) or 0 in steps:
        op.refuse(f"its axes {axes} and steps {steps} do not fit {len(starts)} starts")
    kept = [i for i, axis in enumerate(axes) if not _whole(op, axis, x, starts[i], ends[i], steps[i])]
    if not kept:
        return x
    places = [op.axis(axes[i], x.rank) for i in kept]
    first, last = ([max(-(2**31), min(int(v[i]), 2**31 - 1)) for i in kept] for v in (starts, ends))
    return op.layer(Slice(first, last, places, [steps[i] for i in kept]), x)


def _whole(op: Op, axis: int, x: Tensor, start: int, end: int, step: int) -> bool:
    """Whether a slice takes the whole axis: of the batch, that is all that can be taken."""
    if not -x.rank <= axis < x.rank or step != 1 or start != 0:
        return False
    return end >= 2**31 - 1 if op.batch and axis % x.rank == 0 else end >= x.sample[axis % x.rank - op.batch]


@handler("Slice")
def slice_1(op: Op) -> Tensor:
    return _slice(op, op.get_ints("starts"), op.get_ints("ends"), op.get_ints("axes"), None)


@handler("Slice", since=10)
def slice_10(op: Op) -> Tensor:
    names = ("starts", "ends", "axes", "steps")
    return _slice(op, *(op.integers(name, number) for number, name in enumerate(names, 1)))


@handler("Gather")
def gather(op: Op) -> Tensor:
    x, indices = op.tensor(0), op.constant(1, "indices")
    if indices.dtype.kind not in "iu":
        op.refuse(f"its indices must be integers; got {indices.dtype}")
    axis = op.axis(op.get_int("axis", 0), x.rank)
    return op.layer(Gather(indices.tolist(), axis), x)


def _split(op: Op, sizes: list[int] | None, parts: int | None) -> tuple[Value, ...]:
    x = op.tensor(0)
    axis = op.axis(op.get_int("axis", 0), x.rank)
    length = x.sample[axis - 1]
    if sizes is None:
        count = parts or op.outputs
        size = -(-length // count)
        sizes = [size] * (count - 1) + [length - size * (count - 1)]
    if sum(sizes) != length or min(sizes, default=0) < 0 or len(sizes) < op.outputs:
        op.refuse(f"parts of {sizes} are not the {length} there are, for {op.outputs} outputs")
    ends = np.cumsum(sizes).tolist()
    return tuple(_part(op, x, axis, end - size, end) for size, end in zip(sizes, ends, strict=True))


def _part(op: Op, x: Tensor, axis: int, start: int, end: int) -> Value:
    if start < end:
        return op.layer(Slice([start], [end], [axis]), x, part=str(start))
    empty = [*x.sample[: axis - 1], 0, *x.sample[axis:]]
    return constant("", [np.zeros([*([n] if op.batch else []), *empty], np.float32) for n in PROBES])


@handler("Split")
def split(op: Op) -> tuple[Value, ...]:
    return _split(op, op.integers("split", 1), op.get_int("num_outputs"))


_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "wrap"}


def _pad(op: Op, pads: list[int] | None, value: float, axes: list[int] | None) -> Tensor:
    x, mode = op.tensor(0), op.get_string("mode", "constant")
    if mode not in _MODES or pads is None:
        op.refuse(f"it needs pads and one of the modes {', '.join(_MODES)}; got {mode!r}")
    axes = list(range(x.rank)) if axes is None else axes
    if len(pads) != 2 * len(axes):
        op.refuse(f"{pads} are not a border before and behind each of {len(axes)} axes")
    borders = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes) if (pads[i], pads[i + len(axes)]) != (0, 0)}
    pairs = sorted((op.axis(axis, x.rank), pair) for axis, pair in borders.items())
    if not pairs:
        return x
    # Infinity, which stands before a maximum, is the largest float32 here: settings are JSON, which has no infinity.
    largest = float(np.finfo(np.float32).max)
    value = min(max(value, -largest), largest) if mode == "constant" else 0.0
    spatial = all(axis > 1 for axis, _ in pairs) and all(min(pair) >= 0 for _, pair in pairs) and mode != "wrap"
    if spatial and len(x.sample) > 1:
        found = dict(pairs)
        every = [list(found.get(axis, (0, 0))) for axis in range(2, len(x.sample) + 1)]
        return op.layer(Pad(every, mode=_MODES[mode], value=value), x)
    pads = [*(before for _, (before, _) in pairs), *(after for _, (_, after) in pairs)]
    return op.layer(PadAxes(pads, [axis for axis, _ in pairs], mode=_MODES[mode], value=value), x)


@handler("Pad")
def pad_1(op: Op) -> Tensor:
    return _pad(op, op.get_ints("pads") or op.get_ints("paddings"), op.get_float("value", 0.0), None)


@handler("Pad", since=11)
def pad_11(op: Op) -> Tensor:
    return _pad(op, op.integers("pads", 1), op.scalar(2, "value", 0.0), op.integers("axes", 3))
