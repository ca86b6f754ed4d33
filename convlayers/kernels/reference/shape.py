"""Borders, and images made larger."""

from collections.abc import Sequence
from math import prod

import numpy as np

from ...shapes import Pairs


def pad(x: np.ndarray, pairs: Pairs, mode: str, value: float) -> np.ndarray:
    """A border along the last axes, of one value, of the image mirrored, or of its outermost pixels."""
    border = ((0, 0),) * (x.ndim - len(pairs)) + pairs
    wide = x.astype(np.float64)
    if mode == "constant":
        return np.pad(wide, border, constant_values=value)
    return np.pad(wide, border, "edge" if mode == "replicate" else "reflect")


def pad_backward(dy: np.ndarray, shape: tuple[int, ...], pairs: Pairs, mode: str) -> np.ndarray:
    """Each element of `dy` goes to the pixel that was read for it; one more pixel at the end takes what read none."""
    source = pad(np.arange(prod(shape)).reshape(shape), pairs, mode, -1).astype(int)
    dx = np.zeros(prod(shape) + 1)
    np.add.at(dx, source, dy.astype(np.float64))
    return dx[:-1].reshape(shape)


def upsample_matrix(size: int, scale: int, linear: bool) -> np.ndarray:
    """The weight of each of `size` pixels in each of `scale size` pixels."""
    k, weights = np.arange(size * scale), np.zeros((size * scale, size))
    if not linear:
        weights[k, k // scale] = 1
        return weights
    place = np.clip((k + 0.5) / scale - 0.5, 0, size - 1)
    before = np.floor(place).astype(int)
    weights[k, before] += 1 - (place - before)
    weights[k, np.minimum(before + 1, size - 1)] += place - before
    return weights


def upsample(x: np.ndarray, scale: Sequence[int], linear: bool) -> np.ndarray:
    """Each spatial axis times its matrix."""
    for axis, factor in enumerate(scale, 2):
        x = np.moveaxis(np.tensordot(x, upsample_matrix(x.shape[axis], factor, linear), (axis, 1)), -1, axis)
    return x


def upsample_backward(dy: np.ndarray, shape: tuple[int, ...], scale: Sequence[int], linear: bool) -> np.ndarray:
    """Each spatial axis times its matrix transposed."""
    for axis, factor in enumerate(scale, 2):
        dy = np.moveaxis(np.tensordot(dy, upsample_matrix(shape[axis], factor, linear), (axis, 0)), -1, axis)
    return dy
