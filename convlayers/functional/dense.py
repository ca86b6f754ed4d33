"""Products of matrices as functions of arrays."""

import numpy as np

from .. import kernels
from ..errors import ShapeError
from ..kernels import memory, threads_for
from ._arrays import NO_BIAS, as_array, check_gradient
from .pointwise import column_sums

# From so many products in a sum on, and up to so many columns, sums over neighbouring values beat the packed panels: on Zen 5
# by 1.1 to 2 times, on Emerald Rapids by 1.4 to 2.6. Not so with many rows and columns whose values together leave the
# second-level cache: packed, they are read from behind it once, and take 1.2 to 1.6 times less.
_LONG_SUM = 256
_FEW_COLUMNS = 16
_MANY_ROWS, _MANY_COLUMNS, _MANY_VALUES = 32, 64, 1 << 18


# Packed panels are written by one thread and read by others, which costs more than it saves below a million multiply-adds.
_PACKED_WORK = 0.25


def _by_rows(m: int, n: int, k: int) -> bool:
    """Whether `x @ w.T` of (m, k) and (n, k) is computed without packing."""
    many = m >= _MANY_ROWS and n >= _MANY_COLUMNS and (m + n) * k >= _MANY_VALUES
    return n <= _FEW_COLUMNS or (k >= _LONG_SUM and not many)


def _gemm(a: np.ndarray, b: np.ndarray, transpose_a: bool = False) -> np.ndarray:
    m, n, k = a.shape[1] if transpose_a else a.shape[0], b.shape[1], b.shape[0]
    c = memory.empty((m, n), a.dtype)
    if c.size and k:
        threads = threads_for(_PACKED_WORK * m * n * k)
        kernels.compiled(a.dtype).gemm(a, b, NO_BIAS[a.dtype], c, transpose_a, False, False, threads)
    else:
        c.fill(0)
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
    y = memory.empty((x.shape[0], w.shape[0]), x.dtype)
    if y.size and x.size:
        bias = NO_BIAS[x.dtype] if bias is None else bias
        compiled, work = kernels.compiled(x.dtype), x.shape[0] * w.size
        if _by_rows(x.shape[0], *w.shape):
            compiled.gemm_rows(x, w, bias, y, relu, threads_for(work))
        else:
            compiled.gemm(x, w, bias, y, False, True, relu, threads_for(_PACKED_WORK * work))
    else:
        y[...] = 0 if bias is None else np.maximum(bias, 0) if relu else bias
    return y


def linear_backward_input(dy: np.ndarray, w: np.ndarray) -> np.ndarray:
    """`dx = dy @ w`, the gradient of `linear` with respect to x."""
    dy = as_array(dy, "linear: dy", 2)
    w = as_array(w, "linear: w", 2, dy.dtype)
    return _gemm(check_gradient(dy, (dy.shape[0], w.shape[0]), "linear", dy.dtype), w)


def linear_backward_weight(dy: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`dw = dy.T @ x` and `db`, the column sums of dy."""
    x = as_array(x, "linear: x", 2)
    dy = as_array(dy, "linear: dy", 2, x.dtype)
    dy = check_gradient(dy, (x.shape[0], dy.shape[1]), "linear", x.dtype)
    return _gemm(dy, x, transpose_a=True), column_sums(dy)
