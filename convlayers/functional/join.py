"""Several arrays one after the other, and one array in parts."""

from collections.abc import Sequence

import numpy as np

from ..errors import ShapeError
from ..kernels import memory
from ._arrays import as_array


def _arrays(arrays: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
    first = as_array(arrays[0], f"{name}: input 0")
    return [first, *(as_array(a, f"{name}: input {n}", first.ndim, first.dtype) for n, a in enumerate(arrays[1:], 1))]


def concat(arrays: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """The arrays one after the other along `axis`; their other sizes are the same."""
    arrays = _arrays(arrays, "concat")
    shape, axis = list(arrays[0].shape), axis % arrays[0].ndim
    if any(a.shape[:axis] != arrays[0].shape[:axis] or a.shape[axis + 1 :] != arrays[0].shape[axis + 1 :] for a in arrays):
        shapes = ", ".join(str(a.shape) for a in arrays)
        raise ShapeError(f"concat: inputs must have one shape apart from axis {axis}; got {shapes}")
    shape[axis] = sum(a.shape[axis] for a in arrays)
    return np.concatenate(arrays, axis=axis, out=memory.empty(tuple(shape), arrays[0].dtype))


def split(x: np.ndarray, sizes: Sequence[int], axis: int) -> list[np.ndarray]:
    """The inverse of `concat`: an array of each of `sizes` along `axis`."""
    x = as_array(x, "split: x")
    axis %= x.ndim
    if sum(sizes) != x.shape[axis]:
        raise ShapeError(f"split: sizes {tuple(sizes)} must add up to {x.shape[axis]}, the size of axis {axis} of {x.shape}")
    parts, start = [], 0
    for size in sizes:
        part = memory.empty((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype)
        np.copyto(part, x[(slice(None),) * axis + (slice(start, start + size),)])
        parts.append(part)
        start += size
    return parts
