"""Windows over any number of spatial axes: an image taken apart into them, and put together again."""

from collections.abc import Iterator
from itertools import product
from math import prod

import numpy as np

from ...shapes import Window, extents


def _padded(x: np.ndarray, win: Window, value: float) -> np.ndarray:
    return np.pad(x.astype(np.float64), ((0, 0), (0, 0), *extents(x.shape[2:], win)), constant_values=value)


def _taps(win: Window) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Each tap of the window, in row order, and the slice of the padded input that it reads for all outputs."""
    for tap in product(*map(range, win.kernel)):
        starts = [t * d for t, d in zip(tap, win.dilation, strict=True)]
        yield tap, tuple(slice(a, a + (o - 1) * s + 1, s) for a, o, s in zip(starts, win.output, win.stride, strict=True))


def patches(x: np.ndarray, win: Window, value: float = 0.0) -> np.ndarray:
    """The windows of `x`, padded with `value`, as `(N, C, taps, outputs)`."""
    padded = _padded(x, win, value)
    columns = [padded[:, :, *where].reshape(*x.shape[:2], prod(win.output)) for _, where in _taps(win)]
    return np.stack(columns, axis=2)


def fold(columns: np.ndarray, shape: tuple[int, ...], win: Window) -> np.ndarray:
    """The transpose of `patches`: adds `(N, C, taps, outputs)` back into an array of `shape`; padding is dropped."""
    extra = extents(shape[2:], win)
    padded = np.zeros((*shape[:2], *(n + sum(e) for n, e in zip(shape[2:], extra, strict=True))))
    for t, (_, where) in enumerate(_taps(win)):
        padded[:, :, *where] += columns[:, :, t].reshape(*shape[:2], *win.output)
    inside = tuple(slice(before, before + n) for (before, _), n in zip(extra, shape[2:], strict=True))
    return padded[:, :, *inside]
