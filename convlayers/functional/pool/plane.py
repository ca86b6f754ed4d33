"""Max and average pooling over windows of `(H, W)`: the doors of the compiled kernels."""

from collections.abc import Callable
from functools import lru_cache
from math import prod

import numpy as np

from ... import kernels
from ...errors import ShapeError
from ...kernels import memory, reference, threads_over
from ...shapes import Window, check_pool
from .._arrays import as_array, check_gradient, window_numbers

_UINT8, _INTC = np.dtype(np.uint8), np.dtype(np.intc)


def _by_width(index: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """An index as the kernels take it: in one byte, in four, or in neither."""
    return (index, None) if index is None or index.dtype == _UINT8 else (None, index)


def max_pool2d(
    x: np.ndarray, win: Window, *, with_index: bool = True, relu: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """The maximum of each window of `win`, and the tap `r * S + s` that holds it: `(y, index)`, both `(N, C, P, Q)`.

    Padding counts as minus infinity; the first maximum in row order is taken; NaN wins. Without the index, which only the
    gradient needs, it is None. With `relu`, `max(y, 0)` in the same pass, and where y is not over 0 an index of no tap.
    """
    x = as_array(x, "max_pool2d: x", 4)
    check_pool(x.shape[2:], win)
    return bound_max_pool2d(x.shape, x.dtype, win, with_index, relu)(x)


def bound_max_pool2d(
    x_shape: tuple[int, ...], dtype: np.dtype, win: Window, with_index: bool, relu: bool
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]:
    """`max_pool2d` of x that has this shape and type."""
    shape, taps, kernel = (*x_shape[:2], *win.output), prod(win.kernel), kernels.compiled(dtype).max_pool2d_forward
    index_dtype = _UINT8 if taps < 256 else _INTC  # one more than there are taps: none of them
    how = *win.kernel, *window_numbers(win), relu, threads_over(prod(shape) * taps)

    def bound(x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        y = memory.empty(shape, dtype)
        index = memory.empty(shape, index_dtype) if with_index else None
        if y.size:
            kernel(x, y, *_by_width(index), *how)
        return y, index

    return bound


def max_pool2d_backward(dy: np.ndarray, index: np.ndarray, x_shape: tuple[int, ...], win: Window) -> np.ndarray:
    """The gradient of `max_pool2d` with respect to its input of shape `x_shape`."""
    dy = as_array(dy, "max_pool2d: dy", 4)
    dy = check_gradient(dy, (*x_shape[:2], *win.output), "max_pool2d", dy.dtype)
    if not isinstance(index, np.ndarray) or index.shape != dy.shape or index.dtype not in (np.uint8, np.intc):
        raise ShapeError(f"max_pool2d: index must be what the forward pass gave, of shape {dy.shape}")
    return bound_max_pool2d_backward(tuple(x_shape), dy.dtype, win)(dy, np.ascontiguousarray(index))


def bound_max_pool2d_backward(
    x_shape: tuple[int, ...], dtype: np.dtype, win: Window
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """`max_pool2d_backward` of dy that fits, and of the index that the forward pass gave."""
    kernel, how = kernels.compiled(dtype).max_pool2d_backward, (*win.kernel, *window_numbers(win), threads_over(prod(x_shape)))

    def bound(dy: np.ndarray, index: np.ndarray) -> np.ndarray:
        dx = memory.empty(x_shape, dtype)
        if dx.size:
            kernel(dy, *_by_width(index), dx, *how)
        return dx

    return bound


def pool_counts(size: tuple[int, ...], win: Window, count_include_pad: bool) -> np.ndarray:
    """How many pixels each average of `avg_pool` is over, `(*output)`, in float64."""
    return reference.pool_counts(size, win, count_include_pad)


@lru_cache(maxsize=64)
def counts_of(size: tuple[int, ...], win: Window, count_include_pad: bool, dtype: np.dtype) -> np.ndarray:
    """`pool_counts` as the kernels take them."""
    return np.ascontiguousarray(reference.pool_counts(size, win, count_include_pad), dtype)


def sums2d(x: np.ndarray, win: Window, divisors: np.ndarray) -> np.ndarray:
    """The sum of each window over its entry of `divisors` `(P, Q)`, which nobody changes; x `(N, C, H, W)` fits the window."""
    y = memory.empty((*x.shape[:2], *win.output), x.dtype)
    if y.size:
        values = y.size * win.kernel[0] * win.kernel[1]
        kernels.compiled(x.dtype).avg_pool2d_forward(
            x, kernels.constant(divisors), y, *win.kernel, *window_numbers(win)[:4], threads_over(values)
        )
    return y


def sums2d_backward(dy: np.ndarray, x_shape: tuple[int, ...], win: Window, divisors: np.ndarray) -> np.ndarray:
    """The gradient of `sums2d` with respect to its input of shape `x_shape`."""
    dx = memory.empty(tuple(x_shape), dy.dtype)
    if dx.size:
        values = dy.size * win.kernel[0] * win.kernel[1]
        kernels.compiled(dy.dtype).avg_pool2d_backward(
            dy, kernels.constant(divisors), dx, *win.kernel, *window_numbers(win)[:4], threads_over(values)
        )
    return dx


def avg_pool2d(x: np.ndarray, win: Window, *, count_include_pad: bool = True) -> np.ndarray:
    """The average of each window of `win`, `(N, C, P, Q)`; padding counts as zeros, or not at all."""
    x = as_array(x, "avg_pool2d: x", 4)
    check_pool(x.shape[2:], win)
    return sums2d(x, win, counts_of(x.shape[2:], win, count_include_pad, x.dtype))


def avg_pool2d_backward(dy: np.ndarray, x_shape: tuple[int, ...], win: Window, *, count_include_pad: bool = True) -> np.ndarray:
    """The gradient of `avg_pool2d` with respect to its input of shape `x_shape`."""
    dy = as_array(dy, "avg_pool2d: dy", 4)
    dy = check_gradient(dy, (*x_shape[:2], *win.output), "avg_pool2d", dy.dtype)
    return sums2d_backward(dy, x_shape, win, counts_of(tuple(x_shape[2:]), win, count_include_pad, dy.dtype))
