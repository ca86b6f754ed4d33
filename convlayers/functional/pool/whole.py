"""Global pooling: one value a channel, whatever the number of axes."""

from math import prod

import numpy as np

from ... import kernels
from ...errors import ShapeError
from ...kernels import memory, threads_over
from ...shapes import Window, window
from .._arrays import as_array, check_gradient
from .plane import max_pool2d, max_pool2d_backward


def _pooled(x_shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The output's shape, `(N, C, 1, ...)`."""
    if len(x_shape) < 3 or not prod(x_shape[2:]):
        raise ShapeError(f"{name}: x must be (N, C, ...) with one pixel at least; got {tuple(x_shape)}")
    return (*x_shape[:2], *(1,) * (len(x_shape) - 2))


def _as_plane(x_shape: tuple[int, ...]) -> tuple[tuple[int, ...], Window]:
    """An image of any number of axes as one of two, and the window that is all of it."""
    n, channels, *size = x_shape
    plane = (prod(size[:-1]), size[-1])
    return (n, channels, *plane), window(plane, plane)


def global_max_pool(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The maximum of each channel of each image and the pixel that holds it: `(y, index)`, both `(N, C, 1, ...)`.

    Pixels are counted in row order; the first maximum is taken; NaN wins.
    """
    x = as_array(x, "global_max_pool: x")
    shape, (plane, win) = _pooled(x.shape, "global_max_pool"), _as_plane(x.shape)
    y, index = max_pool2d(x.reshape(plane), win)
    assert index is not None
    return y.reshape(shape), index.reshape(shape)


def global_max_pool_backward(dy: np.ndarray, index: np.ndarray, x_shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of `global_max_pool` with respect to its input of shape `x_shape`."""
    dy = as_array(dy, "global_max_pool: dy")
    dy = check_gradient(dy, _pooled(x_shape, "global_max_pool"), "global_max_pool", dy.dtype)
    plane, win = _as_plane(x_shape)
    shape = (*x_shape[:2], 1, 1)
    return max_pool2d_backward(dy.reshape(shape), index.reshape(shape), plane, win).reshape(x_shape)


def global_avg_pool(x: np.ndarray) -> np.ndarray:
    """The average of each channel of each image, `(N, C, 1, ...)`."""
    x = as_array(x, "global_avg_pool: x")
    y = memory.empty(_pooled(x.shape, "global_avg_pool"), x.dtype)
    if y.size:
        planes = x.reshape(y.size, prod(x.shape[2:]))
        kernels.compiled(x.dtype).global_avg_pool_forward(planes, y.reshape(-1), threads_over(x.size))
    return y


def global_avg_pool_backward(dy: np.ndarray, x_shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of `global_avg_pool` with respect to its input of shape `x_shape`."""
    dy = as_array(dy, "global_avg_pool: dy")
    dy = check_gradient(dy, _pooled(x_shape, "global_avg_pool"), "global_avg_pool", dy.dtype)
    dx = memory.empty(tuple(x_shape), dy.dtype)
    if dx.size:
        planes = dx.reshape(dy.size, prod(x_shape[2:]))
        kernels.compiled(dy.dtype).global_avg_pool_backward(dy.reshape(-1), planes, threads_over(dx.size))
    return dx
