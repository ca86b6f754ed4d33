"""A depthwise convolution with the batch normalizations around it as one pass, in training (ext/depthwise_chain.pxi)."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np

from .. import kernels
from ..kernels import memory, threads_over
from .algorithms.calls import ceiling
from .algorithms.problem import Problem, geometry
from .batchnorm import unbiased

Arrays = tuple[np.ndarray, ...]
_FLOAT64 = np.dtype(np.float64)


class Norm(NamedTuple):
    """How a batch normalization by the batch's moments is told, and whether it takes over a ReLU, a float being its bound."""

    eps: float
    momentum: float
    relu: bool | float


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


class BoundChain(NamedTuple):
    """`after(conv2d(before(x), w, b))` and its gradient, to the bit what `batch_norm` and `conv2d` give, for one problem.

    `forward` takes x, the arrays of `before` (weight, bias, and running mean and variance, which it moves; None without one),
    w, b or None, and the arrays of `after`. `backward` takes dy, what forward left, w, and what it adds gradients to: those of
    weight and bias of `before`, dw, db or None, and those of `after`.
    """

    forward: Callable[[np.ndarray, Arrays | None, np.ndarray, np.ndarray | None, Arrays], tuple[np.ndarray, ChainPass]]
    backward: Callable[..., np.ndarray]


def bound_chain(problem: Problem, before: Norm | None, after: Norm) -> BoundChain:
    """For x `(N, C, H, W)` and w `(C, 1, R, S)` of the problem's shapes and type; all other arrays are `(C,)`."""
    dtype, channels, compiled = problem.type, problem.x[1], kernels.compiled(problem.type)
    run, differentiate, follow = compiled.depthwise_chain_forward, compiled.depthwise_chain_backward, compiled.batch_norm_follow
    ceilings = ceiling(before is not None and before.relu), ceiling(after.relu)
    last = geometry(problem), *ceilings, threads_over(prod(problem.x))
    of_x, of_z = (unbiased(prod(shape) // channels) for shape in (problem.x, problem.y))

    def begun(norm: Norm) -> NormPass:
        return NormPass(memory.empty((2, channels), _FLOAT64), memory.empty((3, channels), dtype), norm.eps)

    def forward(
        x: np.ndarray, first: Arrays | None, w: np.ndarray, b: np.ndarray | None, second: Arrays
    ) -> tuple[np.ndarray, ChainPass]:
        z, y = memory.empty(problem.y, dtype), memory.empty(problem.y, dtype)
        done = ChainPass(x, z, None if before is None else begun(before), begun(after))
        run(x, first, done.before, w, b, z, second, done.after, y, *last)
        if before is not None and first is not None and done.before is not None:
            follow(*first[2:], done.before.moments, before.momentum, of_x)
        follow(*second[2:], done.after.moments, after.momentum, of_z)
        return y, done

    def backward(
        dy: np.ndarray,
        done: ChainPass,
        w: np.ndarray,
        first: Arrays | None,
        dw: np.ndarray,
        db: np.ndarray | None,
        second: Arrays,
    ) -> np.ndarray:
        dx = memory.empty(problem.x, dtype)
        differentiate(dy, done.x, done.before, w, done.z, done.after, dx, first, dw, db, second, *last)
        return dx

    return BoundChain(forward, backward)
