"""Several arrays one after the other, and one array in parts."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from math import prod

import numpy as np

from .. import kernels
from ..errors import ShapeError
from ..kernels import memory, threads_for
from ._arrays import as_array


def _arrays(arrays: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
    first = as_array(arrays[0], f"{name}: input 0")
    return [first, *(as_array(a, f"{name}: input {n}", first.ndim, first.dtype) for n, a in enumerate(arrays[1:], 1))]


def _columns(whole: np.ndarray, parts: Sequence[np.ndarray], axis: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each part as a matrix, beside the columns of `whole` that it stands for."""
    rows = prod(whole.shape[:axis])
    matrix, matrices = whole.reshape(rows, -1), [part.reshape(rows, -1) for part in parts]
    ends = accumulate((part.shape[1] for part in matrices), initial=0)
    for part, (first, last) in zip(matrices, pairwise(ends), strict=True):
        yield part, matrix[:, first:last]


def concat(arrays: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """The arrays one after the other along `axis`; their other sizes are the same."""
    arrays = _arrays(arrays, "concat")
    shape, axis = list(arrays[0].shape), axis % arrays[0].ndim
    if any(a.shape[:axis] != arrays[0].shape[:axis] or a.shape[axis + 1 :] != arrays[0].shape[axis + 1 :] for a in arrays):
        shapes = ", ".join(str(a.shape) for a in arrays)
        raise ShapeError(f"concat: inputs must have one shape apart from axis {axis}; got {shapes}")
    shape[axis] = sum(a.shape[axis] for a in arrays)
    y = memory.empty(tuple(shape), arrays[0].dtype)
    threads, kernel = threads_for(y.size), kernels.compiled(y.dtype).copy_matrix
    if threads == 1 or not y.size:
        kernels.run(np.concatenate, arrays, axis, y)
        return y
    for part, columns in _columns(y, arrays, axis):
        kernel(part, columns, threads)
    return y


def split(x: np.ndarray, sizes: Sequence[int], axis: int) -> list[np.ndarray]:
    """The inverse of `concat`: an array of each of `sizes` along `axis`."""
    x = as_array(x, "split: x")
    axis %= x.ndim
    if sum(sizes) != x.shape[axis]:
        raise ShapeError(f"split: sizes {tuple(sizes)} must add up to {x.shape[axis]}, the size of axis {axis} of {x.shape}")
    parts = [memory.empty((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype) for size in sizes]
    threads, kernel = threads_for(x.size), kernels.compiled(x.dtype).copy_matrix
    for part, columns in _columns(x, parts, axis) if x.size else ():
        if threads == 1:
            kernels.run(np.copyto, part, columns)
        else:
            kernel(columns, part, threads)
    return parts
