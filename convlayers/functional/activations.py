"""Activations beside ReLU as functions of arrays; ext/activations.pxi and elementary.py list them with their formulas."""

from math import prod
from types import ModuleType

import numpy as np

from .. import kernels
from ..errors import ConfigError, ShapeError
from ..kernels import memory, threads_for, threads_over
from ._arrays import as_array, check_gradient
from .elementary import ELEMENTARY
from .pointwise import add_rows, quietly

_DOUBLE = np.dtype(np.float64)
_VALUE_WORK = 16  # an exponential takes as long as about so many multiply-adds


def activation(name: str, x: np.ndarray, a: float = 0.0, b: float = 0.0) -> np.ndarray:
    """The activation called `name` of every value of x, any shape; `a` and `b` are its constants, where it has any."""
    x = as_array(x, f"{name}: x")
    y = memory.empty(x.shape, x.dtype)
    if name in ELEMENTARY:
        kernels.run(quietly, ELEMENTARY[name].value, x, y, a)
        return y
    kernel = _known(name, x.dtype).activation_forward
    if y.size:
        kernel(name, x.reshape(-1), y.reshape(-1), a, b, threads_for(_VALUE_WORK * x.size))
    return y


def activation_backward(name: str, dy: np.ndarray, kept: np.ndarray, a: float = 0.0, b: float = 0.0) -> np.ndarray:
    """The gradient of `activation` with respect to x.

    `kept` is y for "exp", "reciprocal", "sigmoid", "sqrt" and "tanh", x for the others.
    """
    kept = as_array(kept, f"{name}: x")
    dy = check_gradient(dy, kept.shape, name, kept.dtype)
    dx = memory.empty(kept.shape, kept.dtype)
    if name in ELEMENTARY:
        kernels.run(quietly, ELEMENTARY[name].gradient, dy, kept, dx, a)
        return dx
    kernel = _known(name, kept.dtype).activation_backward
    if dx.size:
        kernel(name, dy.reshape(-1), kept.reshape(-1), dx.reshape(-1), a, b, threads_for(_VALUE_WORK * dx.size))
    return dx


def _known(name: str, dtype: np.dtype) -> ModuleType:
    compiled = kernels.compiled(dtype)
    if name not in compiled.ACTIVATIONS:
        raise ConfigError(f"an activation is one of {', '.join(sorted([*compiled.ACTIVATIONS, *ELEMENTARY]))}; got {name!r}")
    return compiled


def prelu(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`x` where x > 0, else `weight x`; x `(N, C, ...)`, weight `(C,)` or, one for all, `(1,)`."""
    x = as_array(x, "prelu: x")
    weight = _slopes(x, weight)
    y = memory.empty(x.shape, x.dtype)
    if y.size:
        kernels.compiled(x.dtype).prelu_forward(_planes(x), weight, _planes(y), threads_over(x.size))
    return y


def prelu_backward(dy: np.ndarray, x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `prelu`: `(dx, dw)`; at x = 0 as where x < 0."""
    x = as_array(x, "prelu: x")
    weight = _slopes(x, weight)
    dy = check_gradient(dy, x.shape, "prelu", x.dtype)
    dx, sums = memory.empty(x.shape, x.dtype), memory.empty((prod(x.shape[:2]),), _DOUBLE)
    dw = memory.empty(weight.shape, x.dtype)
    if dx.size:
        kernel = kernels.compiled(x.dtype).prelu_backward
        kernel(_planes(dy), _planes(x), weight, _planes(dx), sums, threads_over(x.size))
    else:
        kernels.run(np.copyto, sums, 0)
    kernels.run(add_rows, sums.reshape(-1, len(weight)), dw)
    return dx, dw


def _slopes(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    weight = as_array(weight, "prelu: weight", 1, x.dtype)
    if x.ndim < 2 or len(weight) not in (1, x.shape[1]):
        raise ShapeError(f"prelu: weight must have shape (1,), or (C,) for x (N, C, ...); got {weight.shape} for x {x.shape}")
    return weight


def _planes(x: np.ndarray) -> np.ndarray:
    return x.reshape(x.shape[0] * x.shape[1], -1)


def softmax(x: np.ndarray, axis: int, *, log: bool = False) -> np.ndarray:
    """`e^(x_i - max x) / sum_j e^(x_j - max x)` along an axis, or the logarithm of that."""
    x = as_array(x, "softmax: x")
    y = memory.empty(x.shape, x.dtype)
    if y.size:
        kernel = kernels.compiled(x.dtype).softmax_forward
        kernel(_along(x, axis), _along(y, axis), log, threads_for(_VALUE_WORK * x.size))
    return y


def softmax_backward(dy: np.ndarray, y: np.ndarray, axis: int, *, log: bool = False) -> np.ndarray:
    """`y (dy - sum_j dy_j y_j)`, from the output `y` of `softmax`; of the logarithm, `dy - e^y sum_j dy_j`."""
    y = as_array(y, "softmax: y")
    dy = check_gradient(dy, y.shape, "softmax", y.dtype)
    dx = memory.empty(y.shape, y.dtype)
    if y.size:
        kernel = kernels.compiled(y.dtype).softmax_backward
        kernel(_along(dy, axis), _along(y, axis), _along(dx, axis), log, threads_for(_VALUE_WORK * y.size))
    return dx


def _along(x: np.ndarray, axis: int) -> np.ndarray:
    """The axis in the middle of three."""
    axis %= x.ndim
    return x.reshape(prod(x.shape[:axis]), x.shape[axis], prod(x.shape[axis + 1 :]))
