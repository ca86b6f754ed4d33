"""Parts of arrays along their axes, and sums along them, with NumPy; means of the last axes as global pooling has them."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from .. import kernels
from ..errors import ShapeError
from ..kernels import memory
from ._arrays import as_array, check_gradient
from .pointwise import add_up
from .pool.whole import global_avg_pool, global_avg_pool_backward


def _key(ranges: Mapping[int, range], rank: int) -> tuple[slice, ...]:
    places = (ranges.get(axis) for axis in range(rank))
    # Behind the first value, on the way down, comes nothing: slices write that as None.
    return tuple(slice(None) if r is None else slice(r.start, r.stop if r.stop >= 0 else None, r.step) for r in places)


def select(x: np.ndarray, ranges: Mapping[int, range]) -> np.ndarray:
    """The part of x that `ranges` names, one for each axis that is not taken whole."""
    x = as_array(x, "select: x")
    y = memory.empty(tuple(len(ranges.get(axis, range(n))) for axis, n in enumerate(x.shape)), x.dtype)
    kernels.run(np.copyto, y, x[_key(ranges, x.ndim)])
    return y


def select_backward(dy: np.ndarray, x_shape: tuple[int, ...], ranges: Mapping[int, range]) -> np.ndarray:
    """The gradient of `select`: dy where x was read, 0 elsewhere."""
    dy = as_array(dy, "select: dy")
    expected = tuple(len(ranges.get(axis, range(n))) for axis, n in enumerate(x_shape))
    dx = memory.empty(tuple(x_shape), dy.dtype)
    kernels.run(np.copyto, dx, 0)
    kernels.run(np.copyto, dx[_key(ranges, dx.ndim)], check_gradient(dy, expected, "select", dy.dtype))
    return dx


def _gathered(x_shape: tuple[int, ...], indices: np.ndarray, axis: int) -> tuple[int, ...]:
    size = x_shape[axis]
    if indices.min() < -size or indices.max() >= size:
        raise ShapeError(f"gather: indices of an axis of {size} go from {-size} to {size - 1}; got {indices.tolist()}")
    return (*x_shape[:axis], *indices.shape, *x_shape[axis + 1 :])


def gather(x: np.ndarray, indices: np.ndarray, axis: int) -> np.ndarray:
    """x at `indices` along `axis`, whose place their shape takes; a negative index counts from the end."""
    x = as_array(x, "gather: x")
    y = memory.empty(_gathered(x.shape, indices, axis), x.dtype)
    kernels.run(np.take, x, kernels.constant(indices % x.shape[axis]), axis, y, "clip")
    return y


def gather_backward(dy: np.ndarray, x_shape: tuple[int, ...], indices: np.ndarray, axis: int) -> np.ndarray:
    """The gradient of `gather`: what an index that stands several times gets is added up in their order."""
    dy = as_array(dy, "gather: dy")
    dy = check_gradient(dy, _gathered(tuple(x_shape), indices, axis), "gather", dy.dtype)
    dx = memory.empty(tuple(x_shape), dy.dtype)
    outer, size, inner = prod(x_shape[:axis]), x_shape[axis], prod(x_shape[axis + 1 :])
    places = kernels.constant(indices.reshape(-1) % size)
    kernels.run(_add_at, dy.reshape(outer, len(places), inner), places, dx.reshape(outer, size, inner))
    return dx


def _add_at(rows: np.ndarray, places: np.ndarray, dx: np.ndarray) -> None:
    order = np.argsort(places, kind="stable")
    found, starts = np.unique(places[order], return_index=True)
    dx.fill(0)
    dx[:, found] = np.add.reduceat(rows[:, order], starts, axis=1)


def _kept(x_shape: tuple[int, ...], axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(1 if axis in axes else n for axis, n in enumerate(x_shape))


def _as_planes(x_shape: tuple[int, ...], axes: Sequence[int]) -> tuple[int, int, int] | None:
    """x with all of `axes` as its last one, where they are the last of it: global pooling then has kernels for the mean."""
    first = min(axes, default=len(x_shape))
    area = prod(x_shape[first:])
    return (prod(x_shape[:first]), 1, area) if area and sorted(axes) == list(range(first, len(x_shape))) else None


def reduce_sum(x: np.ndarray, axes: Sequence[int], *, mean: bool = False) -> np.ndarray:
    """The sum of x over `axes`, which stay with size 1, or the mean."""
    x = as_array(x, "reduce_sum: x")
    planes = _as_planes(x.shape, axes) if mean else None
    if planes is not None:
        return global_avg_pool(x.reshape(planes)).reshape(_kept(x.shape, axes))
    y = memory.empty(_kept(x.shape, axes), x.dtype)
    kernels.run(add_up, x, tuple(axes), y)
    if mean:
        kernels.run(np.divide, y, prod(x.shape[axis] for axis in axes), y)
    return y


def reduce_sum_backward(dy: np.ndarray, x_shape: tuple[int, ...], axes: Sequence[int], *, mean: bool = False) -> np.ndarray:
    """The gradient of `reduce_sum`: dy for each value of its sum, over their number for a mean."""
    dy = as_array(dy, "reduce_sum: dy")
    dy = check_gradient(dy, _kept(tuple(x_shape), axes), "reduce_sum", dy.dtype)
    planes = _as_planes(tuple(x_shape), axes) if mean else None
    if planes is not None:
        return global_avg_pool_backward(dy.reshape(-1, 1, 1), planes).reshape(x_shape)
    dx = memory.empty(tuple(x_shape), dy.dtype)
    if mean:
        kernels.run(np.divide, dy, prod(x_shape[axis] for axis in axes), dx)
    else:
        kernels.run(np.copyto, dx, dy)
    return dx
