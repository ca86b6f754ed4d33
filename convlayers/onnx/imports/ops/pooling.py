"""Pooling, over windows and over whole images."""

from typing import Any

from ....layer import Layer
from ....layers.avg_pooling import AvgPool1d, AvgPool2d, AvgPool3d
from ....layers.global_pooling import (
    GlobalAvgPool1d,
    GlobalAvgPool2d,
    GlobalAvgPool3d,
    GlobalMaxPool1d,
    GlobalMaxPool2d,
    GlobalMaxPool3d,
)
from ....layers.lp_pooling import LpPool1d, LpPool2d, LpPool3d
from ....layers.max_pooling import MaxPool1d, MaxPool2d, MaxPool3d
from ..handlers import handler
from ..op import Op
from ..values import Tensor
from .windows import even, padding, per_axis, spatial

_MAX: dict[int, Any] = {1: MaxPool1d, 2: MaxPool2d, 3: MaxPool3d}
_AVERAGE: dict[int, Any] = {1: AvgPool1d, 2: AvgPool2d, 3: AvgPool3d}
_LP: dict[int, Any] = {1: LpPool1d, 2: LpPool2d, 3: LpPool3d}
_GLOBAL_MAX: dict[int, type[Layer]] = {1: GlobalMaxPool1d, 2: GlobalMaxPool2d, 3: GlobalMaxPool3d}
_GLOBAL_AVERAGE: dict[int, type[Layer]] = {1: GlobalAvgPool1d, 2: GlobalAvgPool2d, 3: GlobalAvgPool3d}


def _pool(op: Op, classes: dict[int, Any], *first: Any, **options: Any) -> Tensor:
    """A pooling over windows, with what all of them have."""
    x = op.tensor(0)
    kernel = op.get_ints("kernel_shape") or op.refuse("its kernel_shape is missing")
    rank = len(kernel)
    if rank not in classes:
        op.refuse(f"pooling over {rank} spatial axes is not there")
    spatial(op, x, rank)
    stride, dilation = per_axis(op, "strides", rank), per_axis(op, "dilations", rank)
    if any(d != 1 for d in dilation):
        if op.get_string("auto_pad", "NOTSET").startswith("SAME"):
            op.refuse(f"auto_pad with dilations {dilation}: runtimes and ONNX differ about the padding; write it out as pads")
        options["dilation"] = even(dilation)
    pads = padding(op, x, kernel, stride, dilation)
    # SAME leaves no part of a window over, and ceil_mode nothing to do.
    ceil_mode = bool(op.get_int("ceil_mode", 0)) and pads != "same"
    layer = classes[rank](*first, even(kernel), stride=even(stride), padding=pads, ceil_mode=ceil_mode, **options)
    return op.layer(layer, x)


@handler("MaxPool")
def max_pool(op: Op) -> Tensor:
    return _pool(op, _MAX)


@handler("AveragePool")
def average_pool(op: Op) -> Tensor:
    return _pool(op, _AVERAGE, count_include_pad=bool(op.get_int("count_include_pad", 0)))


@handler("LpPool")
def lp_pool(op: Op) -> Tensor:
    p = op.get_float("p", 2.0)
    return _pool(op, _LP, float(p))


def _global(op: Op, classes: dict[int, type[Layer]]) -> Tensor:
    x = op.tensor(0)
    if x.rank - 2 not in classes:
        op.refuse(f"it needs a tensor (N, C, ...) with one to three spatial axes; got {x.rank} axes")
    spatial(op, x, x.rank - 2)
    return op.layer(classes[x.rank - 2](), x)


@handler("GlobalMaxPool")
def global_max_pool(op: Op) -> Tensor:
    return _global(op, _GLOBAL_MAX)


@handler("GlobalAveragePool")
def global_average_pool(op: Op) -> Tensor:
    return _global(op, _GLOBAL_AVERAGE)
