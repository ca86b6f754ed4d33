"""A depthwise convolution with the batch normalizations around it as one pass, in training (ext/depthwise_chain.pxi)."""

from typing import NamedTuple

import numpy as np

from .. import kernels
from ..kernels import memory, threads_over
from ._arrays import NO_BIAS, as_array, check_gradient
from .algorithms.problem import Problem, geometry


class Norm(NamedTuple):
    """A batch normalization by the batch's moments, with the ReLU that it takes over; weight and bias `(C,)`."""

    weight: np.ndarray
    bias: np.ndarray
    eps: float
    relu: bool


class NormPass(NamedTuple):
    """What a normalization leaves for its gradient; `moments` `(2, C)` are mean and biased variance, in float64."""

    moments: np.ndarray
    affine: np.ndarray
    eps: float


class ChainPass(NamedTuple):
    """What `backward` takes of a forward pass: x, what the convolution gave, and the normalizations'."""

    x: np.ndarray
    z: np.ndarray
    before: NormPass | None
    after: NormPass
    relu_before: bool
    relu_after: bool


def _begun(norm: Norm, channels: int, dtype: np.dtype) -> tuple[tuple[np.ndarray, np.ndarray], NormPass]:
    """The weights as arrays, and a pass to be filled."""
    weights = as_array(norm.weight, "batch_norm: weight", 1, dtype), as_array(norm.bias, "batch_norm: bias", 1, dtype)
    return weights, NormPass(np.empty((2, channels)), np.empty((3, channels), dtype), norm.eps)


def forward(
    x: np.ndarray, before: Norm | None, w: np.ndarray, b: np.ndarray | None, after: Norm, problem: Problem
) -> tuple[np.ndarray, ChainPass]:
    """`after(conv2d(before(x), w, b))`, with x `(N, C, H, W)` and w `(C, 1, R, S)`, and what `backward` takes.

    The same bits as `batch_norm` and `conv2d` give. `before` may be missing; `problem` is the convolution's.
    """
    dtype, channels = x.dtype, x.shape[1]
    w = as_array(w, "conv2d: w", 4, dtype)
    bias = NO_BIAS[dtype] if b is None else as_array(b, "conv2d: b", 1, dtype)
    first_weights, first = (None, None) if before is None else _begun(before, channels, dtype)
    weights, last = _begun(after, channels, dtype)
    z, y = memory.empty(problem.y, dtype), memory.empty(problem.y, dtype)
    done = ChainPass(x, z, first, last, before is not None and before.relu, after.relu)
    relus, threads = (done.relu_before, done.relu_after), threads_over(x.size)
    kernel = kernels.compiled(dtype).depthwise_chain_forward
    kernel(x, first_weights, first, w, bias, z, weights, last, y, geometry(problem), *relus, threads)
    return y, done


def backward(
    dy: np.ndarray, done: ChainPass, w: np.ndarray, bias: bool, problem: Problem
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`(dx, dw, db)`, with db empty unless `bias`, and the gradients of each normalization's weight and bias, `(2, C)`."""
    x, dtype = done.x, done.x.dtype
    dy = check_gradient(dy, problem.y, "batch_norm", dtype)
    w = as_array(w, "conv2d: w", 4, dtype)
    dx, dw, gradients = memory.empty(x.shape, dtype), np.empty(w.shape, dtype), np.zeros((5, x.shape[1]), dtype)
    last = geometry(problem), bias, done.relu_before, done.relu_after, threads_over(x.size)
    kernel = kernels.compiled(dtype).depthwise_chain_backward
    kernel(dy, x, done.before, w, dw, done.z, done.after, gradients, dx, *last)
    return dx, dw, gradients[4] if bias else NO_BIAS[dtype], gradients[:2], gradients[2:4]
