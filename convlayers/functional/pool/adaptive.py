"""Adaptive pooling: the output's size is given, and the windows divide the input among them.

Where an output's size divides the input's, the windows are ordinary ones, side by side. Else they differ in length and
share pixels: their pixels are copied side by side, each window as long as the longest, filled up with what does not count.
"""

from functools import lru_cache, reduce
from typing import NamedTuple

import numpy as np

from ... import kernels
from ...kernels import memory
from ...shapes import Window, cells, window
from .._arrays import as_array
from .windows import Index, max_pool, max_pool_backward, sums, sums_backward


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


@lru_cache(maxsize=64)
def _counts(size: tuple[int, ...], output: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return adaptive_counts(size, output).astype(dtype)


class _Copied(NamedTuple):
    """An axis whose pixels are copied: slots are the places side by side, windows share a pixel with a neighbour at most."""

    axis: int
    pixels: np.ndarray  # of each slot; the axis' size where there is none
    first: np.ndarray  # of each pixel, its first slot
    second: np.ndarray  # the slots of pixels that have one already


@lru_cache(maxsize=256)
def _layout(size: tuple[int, ...], output: tuple[int, ...]) -> tuple[list[_Copied], Window]:
    """The axes whose pixels are copied, and the window over the whole."""
    every, copied = adaptive_taps(size, output), []
    for axis, (taps, n, outputs) in enumerate(zip(every, size, output, strict=True), 2):
        if n % outputs:
            pixels = taps.ravel()
            first = np.unique(pixels, return_index=True)[1][:n]
            copied.append(_Copied(axis, pixels, first, np.setdiff1d(np.flatnonzero(pixels < n), first)))
    return copied, window(tuple(t.size for t in every), tuple(t.shape[1] for t in every))


def _taken(x: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    shape = (*x.shape[:axis], places.size, *x.shape[axis + 1 :])
    return np.take(x, places, axis, out=memory.empty(shape, x.dtype), mode="clip")


def _side_by_side(x: np.ndarray, output: tuple[int, ...], filling: float) -> tuple[np.ndarray, Window]:
    copied, win = _layout(x.shape[2:], output)
    for axis, pixels, _, _ in copied:
        kernels.unrecordable()
        absent = pixels == x.shape[axis]
        x = _taken(x, pixels, axis)
        np.moveaxis(x, axis, 0)[absent] = filling
    return x, win


def _put_back(dx: np.ndarray, size: tuple[int, ...], output: tuple[int, ...]) -> np.ndarray:
    """The transpose of `_side_by_side`: a pixel that two windows share gets the sum."""
    for axis, pixels, first, second in reversed(_layout(size, output)[0]):
        kernels.unrecordable()
        slots, dx = dx, _taken(dx, first, axis)
        np.moveaxis(dx, axis, 0)[pixels[second]] += np.moveaxis(slots, axis, 0)[second]
    return dx


def adaptive_max_pool(x: np.ndarray, output: tuple[int, ...]) -> tuple[np.ndarray, Index]:
    """The maximum of each of `output` windows and what its gradient needs: `(y, index)`, y `(N, C, *output)`.

    Window i of an axis is `floor(i size / outputs)` to `ceil((i + 1) size / outputs)`. The first maximum in row order is
    taken; NaN wins.
    """
    x = as_array(x, "adaptive_max_pool: x", len(output) + 2)
    y, index = max_pool(*_side_by_side(x, output, -np.inf))
    assert index is not None
    return y, index


def adaptive_max_pool_backward(dy: np.ndarray, index: Index, x_shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of `adaptive_max_pool` with respect to its input of shape `x_shape`."""
    dy = as_array(dy, "adaptive_max_pool: dy", len(x_shape))
    size, output = tuple(x_shape[2:]), dy.shape[2:]
    _, win = _layout(size, output)
    return _put_back(max_pool_backward(dy, index, (*x_shape[:2], *_covered(win)), win), size, output)


def adaptive_avg_pool(x: np.ndarray, output: tuple[int, ...]) -> np.ndarray:
    """The average of each of `output` windows, `(N, C, *output)`; they are those of `adaptive_max_pool`."""
    x = as_array(x, "adaptive_avg_pool: x", len(output) + 2)
    return sums(*_side_by_side(x, output, 0.0), _counts(x.shape[2:], output, x.dtype))


def adaptive_avg_pool_backward(dy: np.ndarray, x_shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of `adaptive_avg_pool` with respect to its input of shape `x_shape`."""
    dy = as_array(dy, "adaptive_avg_pool: dy", len(x_shape))
    size, output = tuple(x_shape[2:]), dy.shape[2:]
    _, win = _layout(size, output)
    dx = sums_backward(dy, (*x_shape[:2], *_covered(win)), win, _counts(size, output, dy.dtype))
    return _put_back(dx, size, output)


def _covered(win: Window) -> tuple[int, ...]:
    """The size of what windows side by side cover."""
    return tuple(k * o for k, o in zip(win.kernel, win.output, strict=True))
