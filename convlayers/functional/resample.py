"""Linear maps along single axes, each output a sum of a few values: `y[k] = sum_t weight[k, t] x[source[k, t]]`.

The gradient is the transposed map. A weight of 0 stands for a value that is not read, so NaN and infinity reach those outputs
alone that depend on them; an output without any weight is 0, or what `resample` is told to put there.
"""

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

import numpy as np

from .. import kernels
from ..kernels import memory
from ._arrays import as_array, check_gradient


class Taps(NamedTuple):
    """A map from an axis of `size` values; `source` and `weight` `(outputs, taps)`, the weights in float64."""

    size: int
    source: np.ndarray
    weight: np.ndarray

    @property
    def empty(self) -> np.ndarray:
        """Which outputs have no weight."""
        return np.logical_not(self.weight.any(axis=1))

    def matrix(self) -> np.ndarray:
        """The map as a matrix `(outputs, size)`."""
        dense = np.zeros((len(self.source), self.size))
        np.add.at(dense, (np.arange(len(self.source))[:, None], self.source), self.weight)
        return dense

    def transposed(self) -> "Taps":
        """The map back: each value gets from those outputs that read it, in their order."""
        outputs, taps = np.nonzero(self.weight)
        return packed(len(self.source), self.size, self.source[outputs, taps], outputs, self.weight[outputs, taps])


def packed(size: int, outputs: int, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray) -> Taps:
    """The map that gives output `rows[i]` the value `columns[i]` with `weights[i]`, for all i."""
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    counts = np.bincount(rows, minlength=outputs)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    source, weight = (np.zeros((outputs, max(counts.max(initial=0), 1)), kind) for kind in (np.intp, np.float64))
    source[rows, place], weight[rows, place] = columns[order], weights[order]
    return Taps(size, source, weight)


def picked(size: int, index: np.ndarray) -> Taps:
    """The map that reads one value for each output, `index` `(outputs,)`; outside of the axis there is none."""
    weight = ((index >= 0) & (index < size)).astype(np.float64)
    return Taps(size, np.where(weight > 0, index, 0)[:, None].astype(np.intp), weight[:, None])


def _along(x: np.ndarray, taps: Taps, axis: int) -> np.ndarray:
    shape = (*x.shape[:axis], len(taps.source), *x.shape[axis + 1 :])
    outer, inner = prod(x.shape[:axis]), prod(x.shape[axis + 1 :])
    x, y = x.reshape(outer, taps.size, inner), memory.empty(shape, x.dtype)
    source, weight = map(kernels.constant, (taps.source, taps.weight))
    kernels.run(_fill_along, x, source, weight, y.reshape(outer, len(source), inner))
    return y


def _fill_along(x: np.ndarray, sources: np.ndarray, weights: np.ndarray, rows: np.ndarray) -> None:
    if not weights.any(axis=1).all():
        rows.fill(0)
    for tap, (source, weight) in enumerate(zip(sources.T, weights.T.astype(x.dtype), strict=True)):
        read = np.flatnonzero(weight)
        part = np.take(x, source[read], axis=1)
        if (weight[read] != 1).any():
            part *= weight[read, None]
        where = slice(None) if len(read) == len(weight) else read
        if tap:
            rows[:, where] += part
        else:
            rows[:, where] = part


def resample(x: np.ndarray, maps: Mapping[int, Taps], *, value: float = 0.0) -> np.ndarray:
    """x under the maps of its axes; an output that has no weight along one of them is `value`."""
    x = as_array(x, "resample: x")
    for axis, taps in maps.items():
        x = _along(x, taps, axis)
    if value:
        for axis, taps in maps.items():
            kernels.run(_put, x, axis, kernels.constant(taps.empty), value)
    return x


def _put(x: np.ndarray, axis: int, where: np.ndarray, value: float) -> None:
    np.moveaxis(x, axis, 0)[where] = value


def resample_backward(dy: np.ndarray, x_shape: tuple[int, ...], maps: Mapping[int, Taps]) -> np.ndarray:
    """The gradient of `resample`; `maps` are the transposed ones, in the same order."""
    dy = as_array(dy, "resample: dy")
    expected = tuple(maps[axis].size if axis in maps else n for axis, n in enumerate(x_shape))
    dx = check_gradient(dy, expected, "resample", dy.dtype)
    for axis, taps in reversed(list(maps.items())):
        dx = _along(dx, taps, axis)
    return dx


def border_taps(n: int, before: int, behind: int, mode: str) -> Taps:
    """The map to an axis of n values with a border; a negative number takes values away, before the others are put there.

    `mode` as in `pad`, or "wrap", the axis over and over; "constant" leaves its border without a weight.
    """
    start, size = max(-before, 0), n + min(before, 0) + min(behind, 0)
    index = np.arange(-max(before, 0), size + max(behind, 0))
    if mode == "replicate":
        index = np.clip(index, 0, size - 1)
    elif mode == "wrap":
        index %= size
    elif mode == "reflect":
        index = np.abs((index + size - 1) % max(2 * size - 2, 1) - (size - 1))
    inside = (index >= 0) & (index < size)
    return picked(n, np.where(inside, index + start, -1))
