"""Pooling as functions of arrays."""

from functools import lru_cache

import numpy as np

from .. import kernels
from ..errors import ShapeError
from ..kernels import memory, reference
from ..shapes import Window, check_pool
from ._arrays import as_array, check_gradient, geometry, threads_for

_UINT8, _INTC = np.dtype(np.uint8), np.dtype(np.intc)
_NO_INDEX = np.empty((0, 0, 0), _UINT8)
_POOL_WORK = 8  # a comparison or an addition of pooling takes as long as about so many multiply-adds of the register tile


def _planes(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, *x.shape[2:])


def max_pool2d(x: np.ndarray, win: Window, *, with_index: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """The maximum of each window of `win`, and the tap `r * S + s` that holds it: `(y, index)`, both `(N, C, P, Q)`.

    Padding counts as minus infinity; the first maximum in row order is taken; NaN wins. Without the index, which only the
    gradient needs, it is None.
    """
    x = as_array(x, "max_pool2d: x", 4)
    check_pool(x.shape[2:], win)
    kernel_h, kernel_w = win.kernel
    y = memory.empty((*x.shape[:2], *win.output), x.dtype)
    index_dtype = _UINT8 if kernel_h * kernel_w <= 256 else _INTC
    index = memory.empty(y.shape, index_dtype) if with_index else None
    if y.size:
        kernel = kernels.compiled(x.dtype).max_pool2d_forward
        threads = threads_for(_POOL_WORK * y.size * kernel_h * kernel_w)
        taps = _NO_INDEX if index is None else _planes(index)
        kernel(_planes(x), _planes(y), taps, kernel_h, kernel_w, *geometry(win), threads)
    return y, index


def max_pool2d_backward(dy: np.ndarray, index: np.ndarray, x_shape: tuple[int, ...], win: Window) -> np.ndarray:
    """The gradient of `max_pool2d` with respect to its input of shape `x_shape`."""
    dy = as_array(dy, "max_pool2d: dy", 4)
    dy = check_gradient(dy, (*x_shape[:2], *win.output), "max_pool2d", dy.dtype)
    if not isinstance(index, np.ndarray) or index.shape != dy.shape or index.dtype not in (np.uint8, np.intc):
        raise ShapeError(f"max_pool2d: index must be what the forward pass gave, of shape {dy.shape}")
    index = np.ascontiguousarray(index)
    dx = memory.empty(tuple(x_shape), dy.dtype)
    if dx.size:
        kernel = kernels.compiled(dy.dtype).max_pool2d_backward
        kernel(_planes(dy), _planes(index), _planes(dx), *win.kernel, *geometry(win), threads_for(_POOL_WORK * dx.size))
    return dx


def pool_counts(size: tuple[int, ...], win: Window, count_include_pad: bool) -> np.ndarray:
    """How many pixels each average of `avg_pool2d` is over, `(P, Q)`, in float64."""
    return reference.pool_counts(size, win, count_include_pad)


@lru_cache(maxsize=64)
def _counts(size: tuple[int, ...], win: Window, count_include_pad: bool, dtype: np.dtype) -> np.ndarray:
    return np.ascontiguousarray(reference.pool_counts(size, win, count_include_pad), dtype)


def avg_pool2d(x: np.ndarray, win: Window, *, count_include_pad: bool = True) -> np.ndarray:
    """The average of each window of `win`, `(N, C, P, Q)`; padding counts as zeros, or not at all."""
    x = as_array(x, "avg_pool2d: x", 4)
    check_pool(x.shape[2:], win)
    y = memory.empty((*x.shape[:2], *win.output), x.dtype)
    if y.size:
        counts = _counts(x.shape[2:], win, count_include_pad, x.dtype)
        work = _POOL_WORK * y.size * win.kernel[0] * win.kernel[1]
        kernels.compiled(x.dtype).avg_pool2d_forward(
            _planes(x), counts, _planes(y), *win.kernel, *geometry(win)[:4], threads_for(work)
        )
    return y


def avg_pool2d_backward(dy: np.ndarray, x_shape: tuple[int, ...], win: Window, *, count_include_pad: bool = True) -> np.ndarray:
    """The gradient of `avg_pool2d` with respect to its input of shape `x_shape`."""
    dy = as_array(dy, "avg_pool2d: dy", 4)
    dy = check_gradient(dy, (*x_shape[:2], *win.output), "avg_pool2d", dy.dtype)
    dx = memory.empty(tuple(x_shape), dy.dtype)
    if dx.size:
        counts = _counts(tuple(x_shape[2:]), win, count_include_pad, dy.dtype)
        work = _POOL_WORK * dy.size * win.kernel[0] * win.kernel[1]
        kernels.compiled(dy.dtype).avg_pool2d_backward(
            _planes(dy), counts, _planes(dx), *win.kernel, *geometry(win)[:4], threads_for(work)
        )
    return dx


def global_avg_pool2d(x: np.ndarray) -> np.ndarray:
    """The average of each channel of each image, `(N, C, 1, 1)`."""
    x = as_array(x, "global_avg_pool2d: x", 4)
    if not (x.shape[2] and x.shape[3]):
        raise ShapeError(f"global_avg_pool2d: an average needs one pixel at least; x is {x.shape}")
    y = memory.empty((*x.shape[:2], 1, 1), x.dtype)
    if y.size:
        planes = x.reshape(y.size, x.shape[2] * x.shape[3])
        kernels.compiled(x.dtype).global_avg_pool_forward(planes, y.reshape(-1), threads_for(_POOL_WORK * x.size))
    return y


def global_avg_pool2d_backward(dy: np.ndarray, x_shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of `global_avg_pool2d` with respect to its input of shape `x_shape`."""
    dy = as_array(dy, "global_avg_pool2d: dy", 4)
    dy = check_gradient(dy, (*x_shape[:2], 1, 1), "global_avg_pool2d", dy.dtype)
    dx = memory.empty(tuple(x_shape), dy.dtype)
    if dx.size:
        planes = dx.reshape(dy.size, x_shape[2] * x_shape[3])
        kernels.compiled(dy.dtype).global_avg_pool_backward(dy.reshape(-1), planes, threads_for(_POOL_WORK * dx.size))
    return dx
