"""Images made larger by whole factors, through the kernels of pooling and of depthwise convolution.

Repeating pixels is the gradient of average pooling without the division. Linear interpolation is the gradient of a depthwise
convolution with a triangular filter, of an image whose outermost pixels are repeated once. The gradients are the poolings and
convolutions themselves.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache, reduce
from math import prod
from typing import NamedTuple

import numpy as np

from .. import kernels
from ..kernels import memory, threads_over
from ..shapes import Pairs
from ._arrays import as_array, check_gradient
from .conv import conv2d, conv2d_backward_input
from .rearrange import pad, pad_backward

_Planes = tuple[int, int, int]


def _passes(shape: tuple[int, ...], scale: Sequence[int]) -> Iterator[tuple[_Planes, tuple[int, int]]]:
    """The upsamplings of planes that one of `(N, C, *size)` is made of: the last two axes at once, then axis by axis."""
    if len(shape) == 3:
        shape, scale = (*shape[:2], 1, shape[2]), (1, *scale)
    *outer, height, width = shape
    yield (prod(outer), height, width), (scale[-2], scale[-1])
    inner = height * scale[-2] * width * scale[-1]
    for axis in range(len(outer) - 1, 1, -1):
        yield (prod(outer[:axis]), outer[axis], inner), (scale[axis - 2], 1)
        inner *= outer[axis] * scale[axis - 2]


def _larger(planes: _Planes, scale: tuple[int, int]) -> _Planes:
    return planes[0], planes[1] * scale[0], planes[2] * scale[1]


@lru_cache(maxsize=64)
def _ones(size: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """What stands for the counts of an average."""
    return np.ones(size, dtype)


def _repeat(x: np.ndarray, scale: tuple[int, int]) -> np.ndarray:
    y = memory.empty(_larger(x.shape, scale), x.dtype)
    if y.size:
        kernel = kernels.compiled(x.dtype).avg_pool2d_backward
        kernel(x[None], kernels.constant(_ones(x.shape[1:], x.dtype)), y[None], *scale, *scale, 0, 0, threads_over(y.size))
    return y


def _repeat_backward(dy: np.ndarray, planes: _Planes, scale: tuple[int, int]) -> np.ndarray:
    dx = memory.empty(planes, dy.dtype)
    if dx.size:
        kernel = kernels.compiled(dy.dtype).avg_pool2d_forward
        kernel(dy[None], kernels.constant(_ones(planes[1:], dy.dtype)), dx[None], *scale, *scale, 0, 0, threads_over(dy.size))
    return dx


class Interpolation(NamedTuple):
    """Linear interpolation by `scale` as a transposed depthwise convolution of stride `scale`: `pairs` repeated pixels around
    the image, filters `w` `(channels, 1, *taps)`, and `cut` outputs to drop at both ends of each axis."""

    pairs: Pairs
    w: np.ndarray
    cut: tuple[int, ...]


@lru_cache(maxsize=16)
def interpolation(channels: int, scale: tuple[int, ...], dtype: np.dtype) -> Interpolation:
    """The filter is `1 - |distance| / scale` at each output pixel that reads an input pixel."""
    taps = [2 * s - s % 2 for s in scale]
    lines = [1 - abs(np.arange(n) - (n - 1) / 2) / s for n, s in zip(taps, scale, strict=True)]
    w = np.empty((channels, 1, *taps), dtype)
    w[...] = reduce(np.multiply.outer, lines)
    w.flags.writeable = False
    edges = [int(s > 1) for s in scale]
    cut = tuple(e * s + (n - s) // 2 for e, s, n in zip(edges, scale, taps, strict=True))
    return Interpolation(tuple((e, e) for e in edges), w, cut)


# Planes are the channels of one image here, which have a filter each.


def _interpolate(x: np.ndarray, scale: tuple[int, int]) -> np.ndarray:
    larger = _larger(x.shape, scale)
    if not x.size:
        return memory.empty(larger, x.dtype)
    pairs, w, cut = interpolation(len(x), scale, x.dtype)
    x, w = pad(x, pairs, mode="replicate")[None], kernels.constant(w)
    return conv2d_backward_input(x, w, (1, *larger), stride=scale, padding=cut, groups=len(w), algorithm="direct")[0]


def _interpolate_backward(dy: np.ndarray, planes: _Planes, scale: tuple[int, int]) -> np.ndarray:
    if not dy.size:
        return memory.empty(planes, dy.dtype)
    pairs, w, cut = interpolation(len(dy), scale, dy.dtype)
    w = kernels.constant(w)
    dx = conv2d(dy[None], w, stride=scale, padding=cut, groups=len(w), algorithm="direct")[0]
    return pad_backward(dx, planes, pairs, mode="replicate")


def upsample(x: np.ndarray, scale: Sequence[int], *, linear: bool = False) -> np.ndarray:
    """`x` `(N, C, *size)` with each spatial axis `scale` times as long; pixels are repeated or, with `linear`, interpolated.

    Output pixel k of an axis lies at `(k + 1/2) / scale - 1/2` of the input, and before the first and behind the last input
    pixel has their value: PyTorch's `align_corners=False`.
    """
    x = as_array(x, "upsample: x")
    shape = (*x.shape[:2], *(n * s for n, s in zip(x.shape[2:], scale, strict=True)))
    for planes, factors in _passes(x.shape, scale):
        if factors != (1, 1):
            x = (_interpolate if linear else _repeat)(x.reshape(planes), factors)
    return x.reshape(shape)


def upsample_backward(dy: np.ndarray, x_shape: tuple[int, ...], scale: Sequence[int], *, linear: bool = False) -> np.ndarray:
    """The gradient of `upsample` with respect to its input of shape `x_shape`."""
    dy = as_array(dy, "upsample: dy")
    shape = (*x_shape[:2], *(n * s for n, s in zip(x_shape[2:], scale, strict=True)))
    dy = check_gradient(dy, shape, "upsample", dy.dtype)
    for planes, factors in reversed(list(_passes(tuple(x_shape), scale))):
        if factors != (1, 1):
            dy = (_interpolate_backward if linear else _repeat_backward)(dy.reshape(_larger(planes, factors)), planes, factors)
    return dy.reshape(x_shape)
