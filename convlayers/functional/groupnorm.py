"""Group and layer normalisation as functions of arrays."""

import math
from typing import NamedTuple

import numpy as np

from .. import kernels
from ..errors import ShapeError
from ..kernels import memory, threads_over
from ._arrays import as_array, check_gradient
from .pointwise import add_rows

_DOUBLE = np.dtype(np.float64)


class GroupNormPass(NamedTuple):
    """What the backward pass takes of a forward pass; `moments` `(2, R)` are mean and biased variance of each group of each
    sample, in float64; a plane of `area` values shares a weight."""

    x: np.ndarray
    weight: np.ndarray
    moments: np.ndarray
    affine: np.ndarray
    area: int
    eps: float


def group_norm(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, groups: int, eps: float = 1e-5
) -> tuple[np.ndarray, GroupNormPass]:
    """`y = (x - mean) / sqrt(var + eps) * weight + bias`, and what `group_norm_backward` needs.

    x `(N, C, ...)`, weight and bias `(C,)`; mean and variance are those of each sample's `C / groups` neighbouring channels.
    """
    x = as_array(x, "group_norm: x")
    if x.ndim < 2 or groups < 1 or x.shape[1] % groups:
        raise ShapeError(f"group_norm: groups {groups} must divide the channels of x (N, C, ...); x is {x.shape}")
    return _normalised("group_norm", x, weight, bias, x.shape[1:2], len(x) * groups, math.prod(x.shape[2:]), eps)


def group_norm_backward(dy: np.ndarray, done: GroupNormPass) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of `group_norm` or of `layer_norm`: `(dx, dw, db)`."""
    x = done.x
    dy = check_gradient(dy, x.shape, "group_norm", x.dtype)
    dx = memory.empty(x.shape, x.dtype)
    # A plane's share is known when its sample is done; where each value has a weight, the kernel adds the samples up.
    shares = memory.empty((2, len(x) if done.area > 1 else 1, done.weight.size), _DOUBLE)
    kernels.run(np.copyto, shares, 0)
    if x.size:
        kernel = kernels.compiled(x.dtype).group_norm_backward
        arrays = (_rows(dy, done), _rows(x, done), done.weight.reshape(-1), done.eps, done.area, done.moments, done.affine)
        kernel(*arrays, _rows(dx, done), *shares, threads_over(x.size))
    gradients = memory.empty((2, *done.weight.shape), x.dtype)
    kernels.run(add_rows, shares, gradients.reshape(2, -1))
    return dx, gradients[0], gradients[1]


def layer_norm(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, axis: int = 1, eps: float = 1e-5
) -> tuple[np.ndarray, GroupNormPass]:
    """The same over all values from `axis` on; weight and bias have the shape `x.shape[axis:]`."""
    x = as_array(x, "layer_norm: x")
    return _normalised("layer_norm", x, weight, bias, x.shape[axis:], math.prod(x.shape[:axis]), 1, eps)


def _normalised(
    name: str, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, shape: tuple[int, ...], rows: int, area: int, eps: float
) -> tuple[np.ndarray, GroupNormPass]:
    """`rows` groups in all, weight and bias of `shape`: one value for each plane of `area` values."""
    weight, bias = (as_array(v, f"{name}: {n}", dtype=x.dtype) for v, n in ((weight, "weight"), (bias, "bias")))
    for key, value in (("weight", weight), ("bias", bias)):
        if value.shape != shape:
            raise ShapeError(f"{name}: {key} must have shape {shape}; got {value.shape}")
    y = memory.empty(x.shape, x.dtype)
    done = GroupNormPass(x, weight, memory.empty((2, rows), _DOUBLE), memory.empty((3, rows), x.dtype), area, eps)
    if x.size:
        kernel = kernels.compiled(x.dtype).group_norm_forward
        arrays = (_rows(x, done), weight.reshape(-1), bias.reshape(-1), eps, area, done.moments, done.affine)
        kernel(*arrays, _rows(y, done), threads_over(x.size))
    return y, done


def _rows(x: np.ndarray, done: GroupNormPass) -> np.ndarray:
    """A row for each group of each sample."""
    return x.reshape(1, done.moments.shape[1], -1)
