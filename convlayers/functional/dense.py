"""Products of matrices as functions of arrays."""

import numpy as np

from .. import kernels
from ..errors import ShapeError
from ..kernels import memory
from ._arrays import NO_BIAS, as_array, check_gradient, threads_for


def _gemm(
    a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, transpose_a: bool, transpose_b: bool, relu: bool = False
) -> np.ndarray:
    m, k = a.shape[::-1] if transpose_a else a.shape
    n = b.shape[0] if transpose_b else b.shape[1]
    c = memory.empty((m, n), a.dtype)
    if c.size and k:
        kernel = kernels.compiled(a.dtype).gemm
        no_bias = NO_BIAS[a.dtype]
        kernel(a, b, no_bias if bias is None else bias, c, transpose_a, transpose_b, relu, threads_for(m * n * k))
    else:
        c[...] = 0 if bias is None else np.maximum(bias, 0) if relu else bias
    return c


def linear(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None, *, relu: bool = False) -> np.ndarray:
    """`y = x @ w.T + b`; x `(N, in)`, w `(out, in)`, b `(out,)`; returns `(N, out)`. With `relu`, `max(y, 0)`, in one pass."""
    x = as_array(x, "linear: x", 2)
    w = as_array(w, "linear: w", 2, x.dtype)
    if x.shape[1] != w.shape[1]:
        raise ShapeError(f"linear: weight {w.shape} is for {w.shape[1]} features; x has {x.shape[1]}")
    bias = None if b is None else as_array(b, "linear: b", 1, x.dtype)
    if bias is not None and bias.shape != w.shape[:1]:
        raise ShapeError(f"linear: b must have shape ({w.shape[0]},); got {bias.shape}")
    return _gemm(x, w, bias, False, True, relu)


def linear_backward_input(dy: np.ndarray, w: np.ndarray) -> np.ndarray:
    """`dx = dy @ w`, the gradient of `linear` with respect to x."""
    dy = as_array(dy, "linear: dy", 2)
    w = as_array(w, "linear: w", 2, dy.dtype)
    return _gemm(check_gradient(dy, (dy.shape[0], w.shape[0]), "linear", dy.dtype), w, None, False, False)


def linear_backward_weight(dy: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`dw = dy.T @ x` and `db`, the column sums of dy."""
    x = as_array(x, "linear: x", 2)
    dy = as_array(dy, "linear: dy", 2, x.dtype)
    dy = check_gradient(dy, (x.shape[0], dy.shape[1]), "linear", x.dtype)
    return _gemm(dy, x, None, True, False), dy.sum(axis=0)
