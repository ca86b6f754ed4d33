"""Max, min and average pooling over windows of one, two or three axes, by the kernels for two.

One axis is a row. Three are taken in two passes, over `(H, W)` of every slice and then over D, with the pixels of a slice in
one row: each pass reads the array where it lies. The first maximum of the first slice that holds one is the first in
`(d, h, w)` order, and a sum of sums is divided once, at the end. Sums under a dilation, which the kernels have not, are added
up tap by tap.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from math import prod
from typing import cast

import numpy as np

from ... import kernels
from ...errors import ShapeError
from ...kernels import memory
from ...shapes import Window, check_pool, extents
from .._arrays import as_array, check_gradient
from ..pointwise import relu as rectified
from ..rearrange import pad, pad_backward
from .plane import counts_of, max_pool2d, max_pool2d_backward, sums2d, sums2d_backward

Index = tuple[np.ndarray, ...]  # of the maxima: for each pass, the tap that holds it
_POINT = Window((1,), (1,), (1,), ((0, 0),), (1,))


def _axes(a: Window, b: Window) -> Window:
    """The window of a's axes and then b's."""
    return Window._make(of_a + of_b for of_a, of_b in zip(a, b, strict=True))


@lru_cache(maxsize=4096)
def _passes(x_shape: tuple[int, ...], win: Window) -> list[tuple[tuple[int, ...], Window]]:
    """The passes of a pooling: the shape in which each reads its array, and its window."""
    n, channels, *size = x_shape
    if len(size) == 1:
        return [((n, channels, 1, *size), _axes(_POINT, win))]
    if len(size) == 2:
        return [(x_shape, win)]
    depth, plane = Window._make(field[:1] for field in win), Window._make(field[1:] for field in win)
    row = prod(plane.output)
    across = _axes(depth, _POINT._replace(output=(row,)))
    return [((n, channels * size[0], *size[1:]), plane), ((n, channels, size[0], row), across)]


def _output(x_shape: tuple[int, ...], win: Window) -> tuple[int, ...]:
    return (*x_shape[:2], *win.output)


def max_pool(x: np.ndarray, win: Window, *, with_index: bool = True, relu: bool = False) -> tuple[np.ndarray, Index | None]:
    """The maximum of each window of `win` and what its gradient needs: `(y, index)`, y `(N, C, *output)`.

    Padding counts as minus infinity; the first maximum in row order is taken; NaN wins. Without the index it is None. With
    `relu`, `max(y, 0)`, and the gradient of both.
    """
    x = as_array(x, "max_pool: x", len(win.kernel) + 2)
    if len(win.kernel) == 2:
        y, taps = max_pool2d(x, win, with_index=with_index, relu=relu)
        return y, None if taps is None else (taps,)
    check_pool(x.shape[2:], win)
    y, index, passes = x, [], _passes(x.shape, win)
    for number, (shape, part) in enumerate(passes, 1):
        y, taps = max_pool2d(y.reshape(shape), part, with_index=with_index, relu=relu and number == len(passes))
        index.append(taps)
    return y.reshape(_output(x.shape, win)), cast(Index, tuple(index)) if with_index else None


def max_pool_backward(dy: np.ndarray, index: Index, x_shape: tuple[int, ...], win: Window) -> np.ndarray:
    """The gradient of `max_pool`, and of `min_pool`, with respect to its input of shape `x_shape`."""
    dy = as_array(dy, "max_pool: dy", len(x_shape))
    dx = check_gradient(dy, _output(x_shape, win), "max_pool", dy.dtype)
    passes = _passes(tuple(x_shape), win)
    if not isinstance(index, tuple) or len(index) != len(passes):
        raise ShapeError("max_pool: index must be what the forward pass gave")
    for (shape, part), taps in zip(reversed(passes), reversed(index), strict=True):
        dx = max_pool2d_backward(dx.reshape(_output(shape, part)), taps, shape, part)
    return dx.reshape(x_shape)


def min_pool(x: np.ndarray, win: Window, *, with_index: bool = True, relu: bool = False) -> tuple[np.ndarray, Index | None]:
    """The minimum of each window, as `-max(-x)`: `(y, index)` as from `max_pool`, whose gradient it shares."""
    x = as_array(x, "min_pool: x", len(win.kernel) + 2)
    opposite = memory.empty(x.shape, x.dtype)
    kernels.run(np.negative, x, opposite)
    y, index = max_pool(opposite, win, with_index=with_index)
    kernels.run(np.negative, y, y)
    if not relu:
        return y, index
    if index is not None:
        kernels.run(_end_gradient, y, index[-1].reshape(y.shape), prod(_passes(x.shape, win)[-1][1].kernel))
    return rectified(y), index


def _end_gradient(y: np.ndarray, index: np.ndarray, no_tap: int) -> None:
    """The gradient ends where the ReLU bends."""
    index[~(y > 0)] = no_tap


@lru_cache(maxsize=64)
def _ones(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.ones(shape, dtype)


def _divisors(passes: list, counts: np.ndarray) -> list[np.ndarray]:
    """1 for every pass but the last."""
    *before, (_, last) = passes
    return [*(_ones(part.output, counts.dtype) for _, part in before), counts.reshape(last.output)]


def taps(win: Window) -> Iterator[tuple[slice, ...]]:
    """For each tap of the window, in row order, the pixels that it meets of an image with its `extents`."""
    for tap in product(*map(range, win.kernel)):
        axes = zip(tap, win.stride, win.dilation, win.output, strict=True)
        yield tuple(slice(r * d, r * d + (outputs - 1) * s + 1, s) for r, s, d, outputs in axes)


def _dilated_sums(x: np.ndarray, win: Window, counts: np.ndarray) -> np.ndarray:
    padded, y = pad(x, extents(x.shape[2:], win)), memory.empty(_output(x.shape, win), x.dtype)
    kernels.run(_add_taps, padded, win, kernels.constant(counts), y)
    return y


def _add_taps(padded: np.ndarray, win: Window, counts: np.ndarray, y: np.ndarray) -> None:
    y.fill(0)
    for where in taps(win):
        y += padded[:, :, *where]
    y /= counts


def _dilated_sums_backward(dy: np.ndarray, x_shape: tuple[int, ...], win: Window, counts: np.ndarray) -> np.ndarray:
    pairs = extents(tuple(x_shape[2:]), win)
    padded = memory.empty((*x_shape[:2], *(n + sum(pair) for n, pair in zip(x_shape[2:], pairs, strict=True))), dy.dtype)
    kernels.run(_share_out, dy, win, kernels.constant(counts), padded)
    return pad_backward(padded, x_shape, pairs)


def _share_out(dy: np.ndarray, win: Window, counts: np.ndarray, padded: np.ndarray) -> None:
    padded.fill(0)
    share = dy / counts
    for where in taps(win):
        padded[:, :, *where] += share


def sums(x: np.ndarray, win: Window, counts: np.ndarray | None = None) -> np.ndarray:
    """The sum of each window over its entry of `counts` `(*output)`, or itself; x fits the window."""
    counts = _ones(win.output, x.dtype) if counts is None else counts
    if max(win.dilation) > 1:
        return _dilated_sums(x, win, counts)
    passes = _passes(x.shape, win)
    y = x
    for (shape, part), divisors in zip(passes, _divisors(passes, counts), strict=True):
        y = sums2d(y.reshape(shape), part, divisors)
    return y.reshape(_output(x.shape, win))


def sums_backward(dy: np.ndarray, x_shape: tuple[int, ...], win: Window, counts: np.ndarray | None = None) -> np.ndarray:
    """The gradient of `sums` with respect to its input of shape `x_shape`."""
    counts = _ones(win.output, dy.dtype) if counts is None else counts
    if max(win.dilation) > 1:
        return _dilated_sums_backward(dy, x_shape, win, counts)
    passes = _passes(tuple(x_shape), win)
    dx = dy
    for (shape, part), divisors in zip(reversed(passes), reversed(_divisors(passes, counts)), strict=True):
        dx = sums2d_backward(dx.reshape(_output(shape, part)), shape, part, divisors)
    return dx.reshape(x_shape)


def avg_pool(x: np.ndarray, win: Window, *, count_include_pad: bool = True) -> np.ndarray:
    """The average of each window of `win`, `(N, C, *output)`; padding counts as zeros, or not at all."""
    x = as_array(x, "avg_pool: x", len(win.kernel) + 2)
    check_pool(x.shape[2:], win)
    return sums(x, win, counts_of(x.shape[2:], win, count_include_pad, x.dtype))


def avg_pool_backward(dy: np.ndarray, x_shape: tuple[int, ...], win: Window, *, count_include_pad: bool = True) -> np.ndarray:
    """The gradient of `avg_pool` with respect to its input of shape `x_shape`."""
    dy = as_array(dy, "avg_pool: dy", len(x_shape))
    dy = check_gradient(dy, _output(x_shape, win), "avg_pool", dy.dtype)
    return sums_backward(dy, x_shape, win, counts_of(tuple(x_shape[2:]), win, count_include_pad, dy.dtype))
