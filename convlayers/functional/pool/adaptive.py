"""Adaptive pooling: the output's size is given, and the windows divide the input among them.

Where an output's size divides the input's, the windows are ordinary ones, side by side. Else they differ in length and
share pixels, and have kernels of their own (ext/adaptive_pool.pxi), for planes; of a volume these take first the planes and
then the depths, as windows.py does.
"""

from functools import lru_cache, reduce
from math import prod
from typing import NamedTuple

import numpy as np

from ... import kernels
from ...errors import ShapeError
from ...kernels import memory, threads_over
from ...shapes import Window, cells, window
from .._arrays import as_array, check_gradient
from .windows import Index, avg_pool, avg_pool_backward, max_pool, max_pool_backward

_INTC = np.dtype(np.intc)


def adaptive_taps(size: tuple[int, ...], output: tuple[int, ...]) -> list[np.ndarray]:
    """For each axis the pixels of each window, `(outputs, taps)`: as many as the longest has, `size` for one too many."""
    result = []
    for n, axis in zip(size, cells(size, output), strict=True):
        taps = np.array([range(a, a + max(e - b for b, e in axis)) for a, _ in axis])
        result.append(np.where(taps < np.array(axis)[:, 1:], taps, n))
    return result


def adaptive_counts(size: tuple[int, ...], output: tuple[int, ...]) -> np.ndarray:
    """How many pixels each average of `adaptive_avg_pool` is over, `(*output)`, in float64."""
    lengths = [np.array([end - begin for begin, end in axis], np.float64) for axis in cells(size, output)]
    return reduce(np.multiply.outer, lengths)


class _Pass(NamedTuple):
    """Planes `(planes, H, W)` to `(planes, P, Q)`, and where windows of rows and columns begin and end, `(P, 2)`, `(Q, 2)`."""

    x: tuple[int, int, int]
    y: tuple[int, int, int]
    rows: np.ndarray
    columns: np.ndarray

    def windows(self) -> tuple[np.ndarray, np.ndarray]:
        """As the kernels take them."""
        return kernels.constant(self.rows), kernels.constant(self.columns)

    def threads(self) -> int:
        """The thread count for all planes."""
        return threads_over(prod(self.x))


def _passes(x_shape: tuple[int, ...], output: tuple[int, ...]) -> list[_Pass]:
    n, channels, *size = x_shape
    *depths, height, width = (np.array(axis, _INTC) for axis in cells(tuple(size), output))
    planes, (h, w), (p, q) = n * channels * prod(size[:-2]), size[-2:], output[-2:]
    across = _Pass((planes, h, w), (planes, p, q), height, width)
    if not depths:
        return [across]
    each = np.array([(j, j + 1) for j in range(p * q)], _INTC)
    along = _Pass((n * channels, size[0], p * q), (n * channels, output[0], p * q), depths[0], each)
    return [across, along]


@lru_cache(maxsize=256)
def _layout(x_shape: tuple[int, ...], output: tuple[int, ...]) -> tuple[Window | None, list[_Pass]]:
    """The window over the input where all are of one size, or else the passes."""
    size = tuple(x_shape[2:])
    cells(size, output)  # raises where an output is larger than the input
    if all(n % outputs == 0 for n, outputs in zip(size, output, strict=True)):
        return window(size, tuple(n // outputs for n, outputs in zip(size, output, strict=True))), []
    if len(size) == 1:
        return None, _passes((*x_shape[:2], 1, *size), (1, *output))
    return None, _passes(x_shape, output)


def adaptive_max_pool(x: np.ndarray, output: tuple[int, ...]) -> tuple[np.ndarray, Index]:
    """The maximum of each of `output` windows and what its gradient needs: `(y, index)`, y `(N, C, *output)`.

    Window i of an axis is `floor(i size / outputs)` to `ceil((i + 1) size / outputs)`. The first maximum in row order is
    taken; NaN wins.
    """
    y, indices = as_array(x, "adaptive_max_pool: x", len(output) + 2), []
    win, passes = _layout(y.shape, output)
    if win is not None:
        y, index = max_pool(y, win)
        assert index is not None
        return y, index
    shape = (*y.shape[:2], *output)
    for part in passes:
        given, y = y, memory.empty(part.y, y.dtype)
        indices.append(memory.empty(part.y, _INTC))
        if y.size:
            kernel = kernels.compiled(y.dtype).adaptive_max_pool_forward
            kernel(given.reshape(part.x), *part.windows(), y, indices[-1], part.threads())
    return y.reshape(shape), tuple(indices)


def adaptive_max_pool_backward(dy: np.ndarray, index: Index, x_shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of `adaptive_max_pool` with respect to its input of shape `x_shape`."""
    dx = as_array(dy, "adaptive_max_pool: dy", len(x_shape))
    win, passes = _layout(tuple(x_shape), dx.shape[2:])
    if win is not None:
        return max_pool_backward(dx, index, x_shape, win)
    dx = check_gradient(dx, (*x_shape[:2], *dx.shape[2:]), "adaptive_max_pool", dx.dtype)
    fits = isinstance(index, tuple) and all(isinstance(i, np.ndarray) and i.dtype == _INTC for i in index)
    if not fits or [i.shape for i in index] != [part.y for part in passes]:
        raise ShapeError("adaptive_max_pool: index must be what the forward pass gave")
    for part, pixels in zip(reversed(passes), reversed(index), strict=True):
        given, dx = dx, memory.empty(part.x, dx.dtype)
        if dx.size:
            kernel, planes = kernels.compiled(dx.dtype).adaptive_max_pool_backward, part.x[0]
            pixels = np.ascontiguousarray(pixels).reshape(planes, -1)
            kernel(given.reshape(planes, -1), pixels, dx.reshape(planes, -1), part.threads())
    return dx.reshape(x_shape)


def adaptive_avg_pool(x: np.ndarray, output: tuple[int, ...]) -> np.ndarray:
    """The average of each of `output` windows, `(N, C, *output)`; they are those of `adaptive_max_pool`."""
    y = as_array(x, "adaptive_avg_pool: x", len(output) + 2)
    win, passes = _layout(y.shape, output)
    if win is not None:
        return avg_pool(y, win)
    shape = (*y.shape[:2], *output)
    for part in passes:
        given, y = y, memory.empty(part.y, y.dtype)
        if y.size:
            kernels.compiled(y.dtype).adaptive_avg_pool_forward(given.reshape(part.x), *part.windows(), y, part.threads())
    return y.reshape(shape)


def adaptive_avg_pool_backward(dy: np.ndarray, x_shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of `adaptive_avg_pool` with respect to its input of shape `x_shape`."""
    dx = as_array(dy, "adaptive_avg_pool: dy", len(x_shape))
    win, passes = _layout(tuple(x_shape), dx.shape[2:])
    if win is not None:
        return avg_pool_backward(dx, x_shape, win)
    dx = check_gradient(dx, (*x_shape[:2], *dx.shape[2:]), "adaptive_avg_pool", dx.dtype)
    for part in reversed(passes):
        given, dx = dx, memory.empty(part.x, dx.dtype)
        if dx.size:
            kernels.compiled(dx.dtype).adaptive_avg_pool_backward(given.reshape(part.y), *part.windows(), dx, part.threads())
    return dx.reshape(x_shape)
