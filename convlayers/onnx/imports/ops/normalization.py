"""Normalizations. Running statistics stay buffers, so that training can go on."""

from typing import Any

import numpy as np

from ....layers.arithmetic import Subtract
from ....layers.elementary import AddConstant, PowConstant
from ....layers.group_normalization import GroupNorm, InstanceNorm, LayerNorm
from ....layers.lrn import LRN
from ....layers.normalization import BatchNorm1d, BatchNorm2d, BatchNorm3d
from ....layers.reductions import ReduceMean
from ..handlers import handler
from ..op import Op, plain
from ..values import Tensor

# By the axes of a sample.
_BATCH: dict[int, Any] = {1: BatchNorm1d, 2: BatchNorm1d, 3: BatchNorm2d, 4: BatchNorm3d}


def _eps(op: Op) -> float:
    """What is added to a variance. Some converters write 0 where it is in the variance already; ours is above that."""
    return op.get_float("epsilon", 1e-5) or float(np.finfo(np.float32).tiny)


@handler("BatchNormalization")
def batch_normalization(op: Op) -> Tensor:
    x = op.tensor(0)
    if not op.batch or len(x.sample) not in _BATCH:
        op.refuse(f"it needs a tensor (N, C, ...) with at most three spatial axes; got {x.rank} axes")
    if op.get_int("training_mode", 0) or (not op.get_int("is_test", 1 if op.version > 6 else 0) and op.outputs > 1):
        op.refuse("it computes the statistics of a batch (training mode); export the network for inference")
    if not op.get_int("spatial", 1):
        op.refuse("spatial=0, statistics of each pixel, is not there")
    # ONNX's momentum is what is kept, PyTorch's what is new.
    momentum = plain(1.0 - op.get_float("momentum", 0.9))
    layer = _BATCH[len(x.sample)](eps=_eps(op), momentum=momentum)
    names = ("weight", "bias", "running_mean", "running_var")
    arrays: dict[str, Any] = {name: op.weight(i, name, 1) for i, name in enumerate(names, 1)}
    return op.layer(layer, x, **arrays)


@handler("InstanceNormalization")
def instance_normalization(op: Op) -> Tensor:
    layer = InstanceNorm(eps=_eps(op), affine=True)
    x = op.tensor(0)
    if not op.batch:
        op.refuse("it needs a batch axis")
    return op.layer(layer, x, weight=op.weight(1, "scale", 1), bias=op.weight(2, "bias", 1))


@handler("LayerNormalization", since=17)
def layer_normalization(op: Op) -> tuple[Tensor, ...]:
    x, eps = op.tensor(0), _eps(op)
    axis = op.axis(op.get_int("axis", -1), x.rank)
    shape = x.sample[axis - 1 :]
    arrays: dict[str, Any] = {}
    for number, name in ((1, "weight"), (2, "bias")):
        array = op.optional_weight(number, name)
        arrays[name] = np.zeros(shape, np.float32) if array is None else _broadcast(op, array, shape, name)
    y = op.layer(LayerNorm(axis, eps=eps), x, **arrays)
    return (y,) if op.outputs == 1 else (y, *_statistics(op, x, axis, eps))


def _statistics(op: Op, x: Tensor, axis: int, eps: float) -> tuple[Tensor, Tensor]:
    """The mean, and the reciprocal of the standard deviation."""
    axes = list(range(axis, len(x.sample) + 1))
    mean = op.layer(ReduceMean(axes), x, part="mean")
    squares = op.layer(PowConstant(2.0), op.layer(Subtract(), x, mean, part="deviation"), part="squares")
    variance = op.layer(AddConstant(eps), op.layer(ReduceMean(axes), squares, part="variance"), part="eps")
    return mean, op.layer(PowConstant(-0.5), variance, part="inverse")


def _broadcast(op: Op, array: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    extra = array.ndim - len(shape)
    try:
        return np.broadcast_to(array.reshape(array.shape[extra:]) if extra > 0 else array, shape)
    except ValueError:
        op.refuse(f"its {name} of shape {array.shape} does not fit {shape}")


def _group_normalization(op: Op, per_group: bool) -> Tensor:
    x, groups = op.tensor(0), op.get_int("num_groups", 1)
    if not op.batch or not x.sample or groups < 1 or x.sample[0] % groups:
        op.refuse(f"{groups} groups do not divide a sample of shape {x.sample}")
    arrays: dict[str, Any] = {name: op.weight(number, name, 1) for number, name in ((1, "weight"), (2, "bias"))}
    if per_group:
        arrays = {name: np.repeat(array, x.sample[0] // groups) for name, array in arrays.items()}
    return op.layer(GroupNorm(groups, eps=_eps(op)), x, **arrays)


@handler("GroupNormalization", since=18)
def group_normalization_18(op: Op) -> Tensor:
    return _group_normalization(op, per_group=True)


@handler("GroupNormalization", since=21)
def group_normalization(op: Op) -> Tensor:
    return _group_normalization(op, per_group=False)


@handler("LRN")
def lrn(op: Op) -> Tensor:
    size = op.get_int("size") or op.refuse("its size is missing")
    layer = LRN(size, alpha=op.get_float("alpha", 1e-4), beta=op.get_float("beta", 0.75), bias=op.get_float("bias", 1.0))
    x = op.tensor(0)
    if not op.batch:
        op.refuse("it needs a batch axis")
    return op.layer(layer, x)
