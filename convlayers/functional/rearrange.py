"""Borders around images, axes in another order, and one sample many times."""

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from .. import kernels
from ..errors import ConfigError
from ..kernels import memory
from ..shapes import Pairs, padded
from ._arrays import as_array, check_gradient
from .pointwise import column_sums

PAD_MODES = ("constant", "reflect", "replicate")


def _inside(shape: tuple[int, ...], pairs: Pairs) -> list[slice]:
    """The part of a padded array that holds the array of `shape`."""
    outer = len(shape) - len(pairs)
    rows = [slice(before, before + n) for n, (before, _) in zip(shape[outer:], pairs, strict=True)]
    return [slice(None)] * outer + rows


def _borders(shape: tuple[int, ...], pairs: Pairs, mode: str) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Each line of border, in the order in which they can be filled, and the line that it repeats; none if it is constant.

    A line across an axis is as long as the padded array in the axes before that one, and as the array itself in those behind.
    """
    if mode == "constant":
        return
    inside = _inside(shape, pairs)
    for axis, (before, after) in enumerate(pairs, len(shape) - len(pairs)):
        first, last = before, before + shape[axis] - 1
        for line in (*range(first), *range(last + 1, last + 1 + after)):
            end = first if line < first else last
            source = 2 * end - line if mode == "reflect" else end
            to, from_ = ((*inside[:axis], slice(k, k + 1), *inside[axis + 1 :]) for k in (line, source))
            yield to, from_
        inside[axis] = slice(None)


def _padded_shape(shape: tuple[int, ...], pairs: Pairs, mode: str) -> tuple[int, ...]:
    if mode not in PAD_MODES:
        raise ConfigError(f"mode is one of {', '.join(PAD_MODES)}; got {mode!r}")
    outer = len(shape) - len(pairs)
    return (*shape[:outer], *padded(shape[outer:], pairs, mode))


def pad(x: np.ndarray, pairs: Pairs, *, mode: str = "constant", value: float = 0.0) -> np.ndarray:
    """`x` with a border of `(before, after)` pixels along each of its last axes.

    `mode` says what the border holds: `"constant"`, `value`; `"reflect"`, the image mirrored in its outermost pixels, which
    are not repeated; `"replicate"`, the outermost pixels.
    """
    x = as_array(x, "pad: x")
    y = memory.empty(_padded_shape(x.shape, pairs, mode), x.dtype)
    kernels.run(_fill_padded, x, pairs, mode, value, y)
    return y


def _fill_padded(x: np.ndarray, pairs: Pairs, mode: str, value: float, y: np.ndarray) -> None:
    if mode == "constant":
        y.fill(value)
    y[tuple(_inside(x.shape, pairs))] = x
    for line, source in _borders(x.shape, pairs, mode):
        y[line] = y[source]


def pad_backward(dy: np.ndarray, x_shape: tuple[int, ...], pairs: Pairs, *, mode: str = "constant") -> np.ndarray:
    """The gradient of `pad`: that of a border is added to the pixels that it repeats, that of a constant one is dropped."""
    dy = as_array(dy, "pad: dy")
    dy = check_gradient(dy, _padded_shape(tuple(x_shape), pairs, mode), "pad", dy.dtype)
    if mode != "constant":
        given, dy = dy, memory.empty(dy.shape, dy.dtype)
        kernels.run(_fold_borders, given, tuple(x_shape), pairs, mode, dy)
    dx = memory.empty(tuple(x_shape), dy.dtype)
    kernels.run(np.copyto, dx, dy[tuple(_inside(dx.shape, pairs))])
    return dx


def _fold_borders(given: np.ndarray, x_shape: tuple[int, ...], pairs: Pairs, mode: str, dy: np.ndarray) -> None:
    np.copyto(dy, given)
    for line, source in reversed(list(_borders(x_shape, pairs, mode))):
        dy[source] += dy[line]


def permute(x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """`x` with axis `axes[i]` as its axis i."""
    x = as_array(x, "permute: x")
    y = memory.empty(tuple(x.shape[axis] for axis in axes), x.dtype)
    kernels.run(np.copyto, y, x.transpose(axes))
    return y


def repeat(value: np.ndarray, count: int, dtype: np.dtype) -> np.ndarray:
    """`value` as every sample of a batch of `count`, `(count, *value.shape)`."""
    y = memory.empty((count, *value.shape), dtype)
    kernels.run(np.copyto, y, as_array(value, "repeat: value", dtype=dtype))
    return y


def repeat_backward(dy: np.ndarray) -> np.ndarray:
    """The gradient of `repeat` with respect to its value: the sum over the batch."""
    dy = as_array(dy, "repeat: dy")
    return column_sums(dy.reshape(len(dy), prod(dy.shape[1:]))).reshape(dy.shape[1:])
