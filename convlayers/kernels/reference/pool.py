"""Pooling."""

from collections.abc import Iterator
from itertools import product
from math import prod

import numpy as np

from ...shapes import Window, cells
from .windows import fold, patches

_FAR = np.finfo(np.float64)


def max_pool_forward(x: np.ndarray, win: Window) -> tuple[np.ndarray, np.ndarray]:
    """The maximum of each window, and the tap that holds it, counted in row order; the first of equals, NaN before all."""
    columns = patches(x, win, -np.inf)
    # Padding must lose even against an input of minus infinity.
    real = patches(np.ones((1, 1, *x.shape[2:])), win) > 0
    ranked = np.where(real, np.where(np.isnan(columns), np.inf, np.maximum(columns, _FAR.min)), -np.inf)
    index = np.where(np.isnan(columns).any(axis=2), np.isnan(columns).argmax(axis=2), ranked.argmax(axis=2))
    y = np.take_along_axis(columns, index[:, :, None], axis=2)[:, :, 0]
    return y.reshape(*x.shape[:2], *win.output), index.reshape(*x.shape[:2], *win.output)


def max_pool_backward(dy: np.ndarray, index: np.ndarray, shape: tuple[int, ...], win: Window) -> np.ndarray:
    """`dy` goes to the tap that held the maximum."""
    taps = np.arange(prod(win.kernel))[:, None]
    chosen = index.reshape(*dy.shape[:2], 1, prod(win.output)) == taps
    return fold(chosen * dy.astype(np.float64).reshape(*dy.shape[:2], 1, prod(win.output)), shape, win)


def pool_counts(size: tuple[int, ...], win: Window, count_include_pad: bool) -> np.ndarray:
    """The divisor of each average, `(*output)`: real pixels, and padding too under `count_include_pad`."""
    counts = np.ones((1,) * len(size))
    for axis, (n, k, s, d, (before, after), output) in enumerate(zip(size, *win, strict=True)):
        taps = np.arange(output)[:, None] * s - before + np.arange(k) * d
        first, last = (-before, n + after) if count_include_pad else (0, n)
        covered = ((taps >= first) & (taps < last)).sum(axis=1)
        counts = counts * covered.reshape([-1 if a == axis else 1 for a in range(len(size))])
    return counts


def avg_pool_forward(x: np.ndarray, win: Window, count_include_pad: bool) -> np.ndarray:
    """The sum of each window over its count."""
    sums = patches(x, win).sum(axis=2).reshape(*x.shape[:2], *win.output)
    return sums / pool_counts(x.shape[2:], win, count_include_pad)


def avg_pool_backward(dy: np.ndarray, shape: tuple[int, ...], win: Window, count_include_pad: bool) -> np.ndarray:
    """`dy` over the count, to every pixel of the window."""
    share = dy.astype(np.float64) / pool_counts(shape[2:], win, count_include_pad)
    share = share.reshape(*dy.shape[:2], 1, prod(win.output))
    return fold(np.broadcast_to(share, (*dy.shape[:2], prod(win.kernel), share.shape[-1])), shape, win)


def global_max_pool_forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The maximum of each channel and its pixel, counted in row order; the first of equals, NaN before all."""
    pixels = x.astype(np.float64).reshape(*x.shape[:2], -1)
    index = pixels.argmax(axis=2)
    y = np.take_along_axis(pixels, index[:, :, None], axis=2)
    shape = (*x.shape[:2], *(1,) * (x.ndim - 2))
    return y.reshape(shape), index.reshape(shape)


def global_max_pool_backward(dy: np.ndarray, index: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`dy` goes to the pixel that held the maximum."""
    chosen = np.arange(prod(shape[2:])) == index.reshape(*shape[:2], 1)
    return (chosen * dy.astype(np.float64).reshape(*shape[:2], 1)).reshape(shape)


def global_avg_pool_forward(x: np.ndarray) -> np.ndarray:
    """The mean of each channel."""
    return x.mean(axis=tuple(range(2, x.ndim)), keepdims=True, dtype=np.float64)


def global_avg_pool_backward(dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`dy` over the channel's size, to every pixel."""
    return np.broadcast_to(dy.astype(np.float64) / prod(shape[2:]), shape)


def _cells(size: tuple[int, ...], output: tuple[int, ...]) -> Iterator[tuple[tuple, tuple]]:
    """Each output of an adaptive pooling, and the part of the input that it is made from, as indices behind `N C`."""
    axes = [enumerate(slice(*cell) for cell in axis) for axis in cells(size, output)]
    for cell in product(*axes):
        places, parts = zip(*cell, strict=True)
        yield (..., *places), (..., *parts)


def adaptive_avg_pool_forward(x: np.ndarray, output: tuple[int, ...]) -> np.ndarray:
    """The mean of each cell."""
    y = np.zeros((*x.shape[:2], *output))
    for place, part in _cells(x.shape[2:], output):
        y[place] = global_avg_pool_forward(x[part]).reshape(x.shape[:2])
    return y


def adaptive_avg_pool_backward(dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`dy` over the cell's size, to every pixel of the cell."""
    dx = np.zeros(shape)
    for place, part in _cells(shape[2:], dy.shape[2:]):
        share = dy[place].reshape(*shape[:2], *(1,) * (len(shape) - 2))
        dx[part] += global_avg_pool_backward(share, dx[part].shape)
    return dx


def adaptive_max_pool_forward(x: np.ndarray, output: tuple[int, ...]) -> np.ndarray:
    """The maximum of each cell; NaN before all."""
    y = np.zeros((*x.shape[:2], *output))
    for place, part in _cells(x.shape[2:], output):
        y[place] = global_max_pool_forward(x[part])[0].reshape(x.shape[:2])
    return y


def adaptive_max_pool_backward(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """`dy` goes to the pixel of `x` that held the maximum, the first of equals in row order."""
    dx = np.zeros(x.shape)
    for place, part in _cells(x.shape[2:], dy.shape[2:]):
        _, index = global_max_pool_forward(x[part])
        dx[part] += global_max_pool_backward(dy[place].reshape(index.shape), index, x[part].shape)
    return dx


def lp_pool_forward(x: np.ndarray, win: Window, p: float) -> np.ndarray:
    """`(sum |x|^p)^(1/p)` over each window."""
    sums = (np.abs(patches(x, win)) ** p).sum(axis=2)
    return (sums ** (1 / p)).reshape(*x.shape[:2], *win.output)


def lp_pool_backward(dy: np.ndarray, x: np.ndarray, win: Window, p: float) -> np.ndarray:
    """`dy (|x| / y)^(p - 1) sign(x)` to every pixel of the window; 0 where y is 0."""
    columns = patches(x, win)
    y = lp_pool_forward(x, win, p).reshape(*x.shape[:2], 1, -1)
    ratio = np.abs(columns) / np.where(y == 0, 1, y)
    return fold(dy.reshape(y.shape) * ratio ** (p - 1) * np.sign(columns), x.shape, win)


def stochastic_pool_forward(x: np.ndarray, win: Window, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tap at which the running sum of the window passes `draws` of its total, and its value; 0 and 0 for all zeros."""
    columns = patches(x, win)
    total = columns.sum(axis=2, keepdims=True)
    passed = columns.cumsum(axis=2) > draws.reshape(*x.shape[:2], 1, -1) * total
    index = passed.argmax(axis=2)
    y = np.take_along_axis(columns, index[:, :, None], axis=2) * (total > 0)
    return y.reshape(draws.shape), index.reshape(draws.shape)


def expected_pool_forward(x: np.ndarray, win: Window) -> np.ndarray:
    """What stochastic pooling gives on average, `sum x^2 / sum x`; values below 0 count as 0, and a window of zeros gives 0."""
    columns = np.maximum(patches(x, win), 0)
    total = columns.sum(axis=2)
    y = (columns**2).sum(axis=2) / np.where(total == 0, 1, total)
    return y.reshape(*x.shape[:2], *win.output)


def expected_pool_backward(dy: np.ndarray, x: np.ndarray, win: Window) -> np.ndarray:
    """`dy (2 x - y) / sum x` to every pixel of the window that is not below 0; 0 in a window of zeros."""
    columns = patches(x, win)
    total = np.maximum(columns, 0).sum(axis=2, keepdims=True)
    y = expected_pool_forward(x, win).reshape(total.shape)
    slope = (2 * columns - y) / np.where(total == 0, np.inf, total)
    return fold(dy.reshape(total.shape) * np.where(columns < 0, 0, slope), x.shape, win)
