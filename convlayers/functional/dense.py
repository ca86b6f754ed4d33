"""Products of matrices as functions of arrays."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np

from .. import kernels
from ..errors import ShapeError
from ..kernels import memory, threads_for, threads_over
from ._arrays import as_array, check_gradient, fits
from .pointwise import add_gradient, column_sums

# From so many products in a sum on, and up to so many columns, sums over neighbouring values beat the packed panels: on Zen 5
# by 1.1 to 2 times, on Emerald Rapids by 1.4 to 2.6. Not so with many rows and columns whose values together leave the
# second-level cache: packed, they are read from behind it once, and take 1.2 to 1.6 times less.
_LONG_SUM = 256
_FEW_COLUMNS = 16
_MANY_ROWS, _MANY_COLUMNS, _MANY_VALUES = 32, 64, 1 << 18
# Sums of so many times the values that they give are a convolution's weight gradient: row n of x is what filter n's gradients
# are there, a row of w a channel's pixels. Shards of the sum, and w is read where it lies: with two threads 1.0 to 1.5 times as
# fast as packed panels (64 x 128 x 12,544 1.5), with one 0.9 to 1.2 (Emerald Rapids).
_DEEP, _DEEP_ROWS, _DEEP_COLUMNS = 16, 32, range(64, 513)


def by_rows(m: int, n: int, k: int) -> bool:
    """Whether `x @ w.T` of (m, k) and (n, k) is computed without packing."""
    many = m >= _MANY_ROWS and n >= _MANY_COLUMNS and (m + n) * k >= _MANY_VALUES
    return n <= _FEW_COLUMNS or (k >= _LONG_SUM and not many)


def _is_deep(m: int, n: int, k: int) -> bool:
    return m >= _DEEP_ROWS and n in _DEEP_COLUMNS and k >= _DEEP * max(m, n)


def _product(m: int, n: int, k: int, dtype: np.dtype) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """`a @ b` as a function of a `(m, k)` and b `(k, n)`."""
    kernel, threads = kernels.compiled(dtype).gemm, threads_for(m * n * k)

    def bound(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        c = memory.empty((m, n), dtype)
        if c.size and k:
            kernel(a, b, None, c, False, False, False, False, threads)
        else:
            kernels.run(np.copyto, c, 0)
        return c

    return bound


def _weight_gradient(m: int, w_shape: tuple[int, ...], dtype: np.dtype) -> Callable[[np.ndarray, np.ndarray, np.ndarray], None]:
    """`dw += dy.T @ x` as a function of dy `(m, out)`, x `(m, in)` and dw.

    Added where it lies: an array of its own, 6.4 MB with 12,544 features by 128, would be written and read once more.
    """
    kernel, work = kernels.compiled(dtype).gemm, m * prod(w_shape)
    threads = threads_for(work)

    def bound(dy: np.ndarray, x: np.ndarray, dw: np.ndarray) -> None:
        if work:
            kernel(dy, x, None, dw, True, False, False, True, threads)

    return bound


def linear(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None, *, relu: bool = False) -> np.ndarray:
    """`y = x @ w.T + b`; x `(N, in)`, w `(out, in)`, b `(out,)`; returns `(N, out)`. With `relu`, `max(y, 0)`, in one pass."""
    x = as_array(x, "linear: x", 2)
    w = as_array(w, "linear: w", 2, x.dtype)
    if x.shape[1] != w.shape[1]:
        raise ShapeError(f"linear: weight {w.shape} is for {w.shape[1]} features; x has {x.shape[1]}")
    bias = None if b is None else as_array(b, "linear: b", 1, x.dtype)
    if bias is not None and bias.shape != w.shape[:1]:
        raise ShapeError(f"linear: b must have shape ({w.shape[0]},); got {bias.shape}")
    return _linear(len(x), w.shape, x.dtype, relu)(x, w, bias)


def _linear(m: int, w_shape: tuple[int, ...], dtype: np.dtype, relu: bool) -> Callable:
    """`linear` as a function of x `(m, in)`, w and the bias or None."""
    (n, k), compiled = w_shape, kernels.compiled(dtype)
    if _is_deep(m, n, k):
        return _deep_linear(m, n, k, dtype, relu)
    work, rows = m * n * k, by_rows(m, n, k)
    kernel = compiled.gemm_rows if rows else compiled.gemm
    how = (relu,) if rows else (False, True, relu, False)
    threads = threads_for(work)

    def bound(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        y = memory.empty((m, n), dtype)
        if work:
            kernel(x, w, bias, y, *how, threads)
        else:
            kernels.unrecordable()
            y[...] = 0 if bias is None else np.maximum(bias, 0) if relu else bias
        return y

    return bound


def _deep_linear(m: int, n: int, k: int, dtype: np.dtype, relu: bool) -> Callable:
    compiled, threads = kernels.compiled(dtype), threads_for(m * n * k)

    def bound(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        y = memory.empty((m, n), dtype)
        rows, filters, sums = x.reshape(1, m, 1, k), w.reshape(1, n, 1, k), y.reshape(m, n, 1, 1)
        compiled.conv2d_backward_weight(rows, filters, sums, 1, 1, 0, 0, 1, 1, 1, threads, None)
        if bias is not None:
            kernels.run(np.add, y, bias, y)
        if relu:
            flat = y.reshape(-1)
            compiled.relu_forward(flat, flat, threads_over(m * n))
        return y

    return bound


def linear_backward_input(dy: np.ndarray, w: np.ndarray) -> np.ndarray:
    """`dx = dy @ w`, the gradient of `linear` with respect to x."""
    dy = as_array(dy, "linear: dy", 2)
    w = as_array(w, "linear: w", 2, dy.dtype)
    dy = check_gradient(dy, (dy.shape[0], w.shape[0]), "linear", dy.dtype)
    return _product(len(dy), w.shape[1], len(w), dy.dtype)(dy, w)


def linear_backward_weight(dy: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`dw = dy.T @ x` and `db`, the column sums of dy."""
    x = as_array(x, "linear: x", 2)
    dy = as_array(dy, "linear: dy", 2, x.dtype)
    dw = memory.empty((dy.shape[1], x.shape[1]), x.dtype)
    kernels.run(np.copyto, dw, 0)
    add_weight_gradient(dy, x, dw)
    return dw, column_sums(dy)


def add_weight_gradient(dy: np.ndarray, x: np.ndarray, dw: np.ndarray) -> None:
    """`dw += dy.T @ x`."""
    x = as_array(x, "linear: x", 2)
    dy = as_array(dy, "linear: dy", 2, x.dtype)
    dy = check_gradient(dy, (x.shape[0], dy.shape[1]), "linear", x.dtype)
    shape = dy.shape[1], x.shape[1]
    if fits(dw, shape, x.dtype):
        _weight_gradient(len(x), shape, x.dtype)(dy, x, dw)
    else:
        add_gradient(dw, linear_backward_weight(dy, x)[0])


class BoundLinear(NamedTuple):
    """`linear` and its gradients for an x of one shape and type; of weights that fit is asked at each call."""

    forward: Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]
    backward_input: Callable[[np.ndarray, np.ndarray], np.ndarray]
    add_weight_gradient: Callable[[np.ndarray, np.ndarray, np.ndarray], None]


def bound_linear(m: int, w_shape: tuple[int, ...], dtype: np.dtype, relu: bool) -> BoundLinear:
    """For x `(m, in)`, where it and dy fit."""
    n, k = w_shape
    run, input_of, add = _linear(m, w_shape, dtype, relu), _product(m, k, n, dtype), _weight_gradient(m, w_shape, dtype)

    def forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
        if fits(w, w_shape, dtype) and (b is None or fits(b, w_shape[:1], dtype)):
            return run(x, w, b)
        return linear(x, w, b, relu=relu)

    def backward_input(dy: np.ndarray, w: np.ndarray) -> np.ndarray:
        return input_of(dy, w) if fits(w, w_shape, dtype) else linear_backward_input(dy, w)

    def add_gradient(dy: np.ndarray, x: np.ndarray, dw: np.ndarray) -> None:
        if fits(dw, w_shape, dtype):
            add(dy, x, dw)
        else:
            add_weight_gradient(dy, x, dw)

    return BoundLinear(forward, backward_input, add_gradient)
