"""Operators that give the same values another shape or another order."""

import math
from collections.abc import Sequence

import numpy as np

from ....layer import Shape
from ....layers.arithmetic import Add
from ....layers.dense import Flatten
from ....layers.joins import Concat
from ....layers.parameter import Parameter
from ....layers.reshape import Permute, Reshape
from ..handlers import handler
from ..op import BATCH, Op
from ..values import PROBES, Constant, Tensor, constant


def _reshaped(op: Op, x: Tensor, sample: Sequence[int], part: str = "") -> Tensor:
    """x with samples of this shape: nothing to do, `Flatten`, or `Reshape`."""
    if tuple(sample) == x.sample:
        return x
    if not sample:
        op.refuse("it leaves a sample without an axis")
    if 0 in sample or 0 in x.sample:
        op.refuse(f"it makes an empty tensor of shape {tuple(sample)}")
    flat = len(sample) == 1 and op.batch
    return op.layer(Flatten() if flat else Reshape(list(sample)), x, part=part)


@handler("Reshape")
def reshape(op: Op) -> Tensor:
    x, target = op.tensor(0), op.sizes("shape", 1) or []
    if not op.get_int("allowzero", 0):
        target = [_kept(op, x, i) if n == 0 else n for i, n in enumerate(target)]
    if op.batch:
        target = _behind_batch(op, x, target)
    known = math.prod(n for n in target if n != -1)
    if target.count(-1) > 1 or (-1 in target and (not known or math.prod(x.sample) % known)):
        op.refuse(f"{target} is not a shape for {math.prod(x.sample)} values")
    sample = [math.prod(x.sample) // known if n == -1 else n for n in target]
    if math.prod(sample) != math.prod(x.sample):
        op.refuse(f"a sample of shape {x.sample} does not fit {tuple(sample)}: values would move from sample to sample")
    return _reshaped(op, x, sample)


def _kept(op: Op, x: Tensor, axis: int) -> int:
    """The size of x along an axis that stays as it is."""
    if axis >= x.rank:
        op.refuse(f"axis {axis} is to stay as it is, and there are {x.rank}")
    return BATCH if op.batch and axis == 0 else x.sample[axis - op.batch]


def _behind_batch(op: Op, x: Tensor, target: list[int]) -> list[int]:
    """The shape of a sample in a shape of the batch, whose first size is the batch's: N, the file's own, or what is left."""
    first, *sample = target or op.refuse("it leaves no axis")
    if BATCH in sample:
        op.refuse("it moves the batch axis from its place")
    fits = -1 not in sample and math.prod(sample) == math.prod(x.sample)
    if first == BATCH or (fits and first in (-1, op.file_batch)) or (first == op.file_batch and sample.count(-1) == 1):
        return sample
    return op.refuse(f"it moves values between the batch axis and others: a sample of shape {x.sample} to {target}")


@handler("Flatten")
def flatten(op: Op) -> Tensor:
    x, axis = op.tensor(0), op.get_int("axis", 1)
    if not -x.rank <= axis <= x.rank:
        op.refuse(f"axis {axis} is not one of the {x.rank} there are")
    place = axis + x.rank if axis < 0 else axis
    if op.batch:
        rest = x.sample[place - 1 :]
        if place == 0 or math.prod(rest) != math.prod(x.sample):
            op.refuse(f"axis {axis} joins others with the batch")
        return _reshaped(op, x, [math.prod(rest)])
    return _reshaped(op, x, [math.prod(x.sample[:place]), math.prod(x.sample[place:])])


@handler("Squeeze")
def squeeze(op: Op) -> Tensor:
    x, axes = op.tensor(0), op.integers("axes", 1)
    places = [i for i, n in enumerate(x.sample, 1) if n == 1] if axes is None else op.axes(axes, x.rank)
    if any(x.sample[place - 1] != 1 for place in places):
        op.refuse(f"the axes {axes} are not all of size 1 in a sample of shape {x.sample}")
    return _reshaped(op, x, [n for i, n in enumerate(x.sample, 1) if i not in places])


@handler("Unsqueeze")
def unsqueeze(op: Op) -> Tensor:
    x, axes = op.tensor(0), op.integers("axes", 1)
    if not axes:
        op.refuse("its axes are missing")
    places, sizes = op.axes(axes, x.rank + len(axes)), list(x.sample)
    for place in places:
        sizes.insert(place - 1, 1)
    return _reshaped(op, x, sizes)


@handler("Transpose")
def transpose(op: Op) -> Tensor:
    x = op.tensor(0)
    order = op.get_ints("perm") or list(range(x.rank))[::-1]
    if sorted(order) != list(range(x.rank)):
        op.refuse(f"perm {order} is no order of {x.rank} axes")
    if op.batch:
        if order[0] != 0:
            op.refuse("it moves the batch axis from its place")
        order = order[1:]
    else:
        order = [axis + 1 for axis in order]
    if order == list(range(1, len(order) + 1)):
        return x
    # Where only axes of size 1 change places, the values stay in theirs.
    if [a for a in order if x.sample[a - 1] != 1] == [a for a in range(1, len(order) + 1) if x.sample[a - 1] != 1]:
        return _reshaped(op, x, [x.sample[a - 1] for a in order])
    return op.layer(Permute(order), x)


@handler("Shape")
def shape(op: Op) -> Constant:
    x = op.tensor(0)
    start, end = op.get_int("start", 0), op.get_int("end")
    sizes = [[*([probe] if op.batch else []), *x.sample] for probe in PROBES]
    return constant("", [np.array(s[start:end], np.int64) for s in sizes])


@handler("Size")
def size(op: Op) -> Constant:
    x = op.tensor(0)
    return constant("", [np.array(math.prod(x.sample) * (probe if op.batch else 1), np.int64) for probe in PROBES])


def _broadcast(op: Op, x: Tensor, sample: Shape) -> Tensor:
    zeros = Parameter(list(sample), trainable=False)
    wide = op.layer(zeros, x, part="shape", value=np.zeros(sample, np.float32))
    return op.layer(Add(), x, wide)


@handler("Expand")
def expand(op: Op) -> Tensor:
    x, target = op.tensor(0), op.sizes("shape", 1) or []
    if op.batch:
        if len(target) > x.rank or (len(target) == x.rank and target[0] not in (BATCH, 1, op.file_batch)):
            op.refuse("it repeats samples along the batch axis")
        target = target[1:] if len(target) == x.rank else target
    try:
        sample = np.broadcast_shapes(x.sample, tuple(target))
    except ValueError:
        op.refuse(f"a sample of shape {x.sample} is not repeated to {target}")
    return x if sample == x.sample else _broadcast(op, x, sample)


@handler("Tile")
def tile(op: Op) -> Tensor:
    x, repeats = op.tensor(0), op.integers("repeats", 1) or []
    if len(repeats) != x.rank or min(repeats) < 1 or (op.batch and repeats[0] != 1) or math.prod(repeats) > 4096:
        op.refuse(f"{repeats} do not say how often each of {x.rank} axes is repeated, the batch once")
    for axis, count in enumerate(repeats, int(not op.batch)):
        if count > 1:
            x = op.layer(Concat(axis), *[x] * count, part=f"axis{axis}")
    return x


@handler("DepthToSpace")
def depth_to_space(op: Op) -> Tensor:
    x, block = op.tensor(0), op.get_int("blocksize", 0)
    if not op.batch or len(x.sample) != 3 or block < 1 or x.sample[0] % block**2:
        op.refuse(f"blocks of {block}x{block} do not divide a sample of shape {x.sample}")
    channels, height, width = x.sample
    inner, deep = channels // block**2, op.get_string("mode", "DCR") == "DCR"
    split = [block, block, inner, height, width] if deep else [inner, block, block, height, width]
    order = [3, 4, 1, 5, 2] if deep else [1, 4, 2, 5, 3]
    y = op.layer(Permute(order), op.layer(Reshape(split), x, part="split"), part="order")
    return op.layer(Reshape([inner, height * block, width * block]), y)


@handler("SpaceToDepth")
def space_to_depth(op: Op) -> Tensor:
    x, block = op.tensor(0), op.get_int("blocksize", 0)
    if not op.batch or len(x.sample) != 3 or block < 1 or x.sample[1] % block or x.sample[2] % block:
        op.refuse(f"blocks of {block}x{block} do not divide a sample of shape {x.sample}")
    channels, height, width = x.sample
    split = [channels, height // block, block, width // block, block]
    order = [3, 5, 1, 2, 4] if op.get_string("mode", "DCR") == "DCR" else [1, 3, 5, 2, 4]
    y = op.layer(Permute(order), op.layer(Reshape(split), x, part="split"), part="order")
    return op.layer(Reshape([channels * block**2, height // block, width // block]), y)
