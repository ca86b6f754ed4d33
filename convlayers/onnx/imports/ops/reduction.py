"""Sums, means, norms and extremes over axes."""

import math
from collections.abc import Callable
from typing import Any

from ....layer import Layer
from ....layers.elementary import Negative, PowConstant
from ....layers.global_pooling import GlobalAvgPool1d, GlobalAvgPool2d, GlobalAvgPool3d, GlobalMaxPool1d
from ....layers.lp_pooling import LpPool1d
from ....layers.reductions import ReduceMean, ReduceSum
from ....layers.reshape import Permute, Reshape
from ..handlers import handler
from ..op import Op
from ..values import Tensor

_GLOBAL: dict[int, Any] = {1: GlobalAvgPool1d, 2: GlobalAvgPool2d, 3: GlobalAvgPool3d}


def _axes(op: Op, x: Tensor, inputs_since: int) -> list[int]:
    """The axes to reduce, sorted; an empty list for none."""
    axes = op.integers("axes", 1 if op.version >= inputs_since else None)
    if axes:
        return op.axes(axes, x.rank)
    return [] if op.get_int("noop_with_empty_axes", 0) else op.axes(range(x.rank), x.rank)


def _reduce(op: Op, layer: Any, inputs_since: int) -> Tensor:
    x = op.tensor(0)
    axes = _axes(op, x, inputs_since)
    return op.layer(layer(axes, keepdims=bool(op.get_int("keepdims", 1))), x) if axes else x


@handler("ReduceMean")
def reduce_mean(op: Op) -> Tensor:
    x = op.tensor(0)
    rank = len(x.sample) - 1
    # The mean over an image has a kernel of its own.
    if op.batch and rank in _GLOBAL and op.get_int("keepdims", 1) and _axes(op, x, 18) == list(range(2, rank + 2)):
        return op.layer(_GLOBAL[rank](), x)
    return _reduce(op, ReduceMean, 18)


@handler("ReduceSum")
def reduce_sum(op: Op) -> Tensor:
    return _reduce(op, ReduceSum, 13)


@handler("ReduceSumSquare")
def reduce_sum_square(op: Op) -> Tensor:
    x = op.layer(PowConstant(2.0), op.tensor(0), part="square")
    axes = _axes(op, x, 18)
    return op.layer(ReduceSum(axes, keepdims=bool(op.get_int("keepdims", 1))), x) if axes else x


def _pooled(op: Op, x: Tensor, pool: Callable[[int], Layer]) -> Tensor:
    """What is a pooling over the axes as one, which are put behind all others; `pool` makes it for so many values."""
    axes = _axes(op, x, 18)
    if not axes:
        op.refuse("it reduces no axis")
    sizes = dict(enumerate(x.sample, 1))
    kept = [axis for axis in sizes if axis not in axes]
    result = [1 if axis in axes else n for axis, n in sizes.items()] if op.get_int("keepdims", 1) else [sizes[a] for a in kept]
    if not result:
        op.refuse("it leaves a sample without an axis")
    if [*kept, *axes] != list(sizes):
        x = op.layer(Permute([*kept, *axes]), x, part="order")
    count = math.prod(sizes[axis] for axis in axes)
    rows = op.layer(Reshape([-1, count]), x, part="rows")
    return op.layer(Reshape(result), op.layer(pool(count), rows, part="pool"))


@handler("ReduceMax")
def reduce_max(op: Op) -> Tensor:
    return _pooled(op, op.tensor(0), lambda _: GlobalMaxPool1d())


@handler("ReduceMin")
def reduce_min(op: Op) -> Tensor:
    negative = op.layer(Negative(), op.tensor(0), part="negative")
    return op.layer(Negative(), _pooled(op, negative, lambda _: GlobalMaxPool1d()), part="minimum")


@handler("ReduceL1")
def reduce_l1(op: Op) -> Tensor:
    return _pooled(op, op.tensor(0), lambda count: LpPool1d(1.0, count))


@handler("ReduceL2")
def reduce_l2(op: Op) -> Tensor:
    return _pooled(op, op.tensor(0), lambda count: LpPool1d(2.0, count))
