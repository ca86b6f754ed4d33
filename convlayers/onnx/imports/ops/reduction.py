"""Sums and means over axes."""

from typing import Any

from ....layers.elementary import PowConstant
from ....layers.global_pooling import GlobalAvgPool1d, GlobalAvgPool2d, GlobalAvgPool3d
from ....layers.reductions import ReduceMean, ReduceSum
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
