"""The sum as it is defined, on the register tile (ext/conv.pxi, ext/conv_weight.pxi), or over less of it (small_images.py)."""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from ... import kernels
from ...kernels import memory, threads_for
from . import depthwise, small_images
from .calls import (
    Backward,
    BackwardBoth,
    Forward,
    FusedForward,
    Kept,
    both_call,
    ceiling,
    forward_call,
    fused_call,
    input_call,
    weight_call,
)
from .problem import FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, Machine, Problem, geometry, once
from .small_images import gradient_of_part, is_product, live_part, of_part

# Sums of over 3/2 of so many taps, for that many filters and more, are taken by slices (ext/gather_tiles.pxi).
_SLICE, _SLICE_FILTERS = 768, 64
# The gradient of so few filters over so many channels is computed with pixels for lanes, 1.3 to 2.8 times as fast (Zen 3); with
# filters for lanes else. Few taps alone do not pay: with 16 filters and more, 0.8 to 1.9 times, 1.05 in the mean.
_FEW_FILTERS, _FEW_CHANNELS = 12, 64
# By how much longer images of up to a vector of outputs take with vectors of so many: 1.0 (3 x 3) to 1.6 (2 x 2) (Zen 4).
_SMALL_IMAGES, _MANY_LANES = 1.3, 16
# Pixels behind the last vector that are taken apart (ext/gather_ends.pxi), and what they cost of one; where kernels are larger
# than 3 x 3. With those, direct took up to 1.8 times as long as Winograd where this chose it, with 5 x 5 0.66 to 1.15 (Zen 4).
_REST, _REST_COST = 4, 0.3
# With at least twice as many filters as so few channels, and so many pixels in all, x and dy of 1 x 1 kernels change places.
_NARROW_CHANNELS, _NARROW_PIXELS = 64, 1024


def refuses(problem: Problem) -> str | None:
    """It computes everything."""
    return None


@once
def _pixels_for_lanes(problem: Problem) -> bool:
    """Whether the kernel that computes a weight gradient is the one for few filters, at stride 1."""
    few = problem.w[0] // problem.groups <= _FEW_FILTERS and problem.w[1] <= _FEW_CHANNELS
    return few and problem.win.stride == (1, 1)


@once
def _narrow(problem: Problem) -> bool:
    """Whether a weight gradient is computed as the transposed one, of x with respect to dy: of the two arrays the kernel
    transposes the one in the place of dy, better the smaller. 64 channels to 256 filters on 56 x 56 took 0.7 to 0.85 of the
    time, 16 to 96 on 112 x 112 0.5 to 0.65, 96 to 576 and more channels 0.97 to 1.1 (Zen 4, AVX-512 and AVX2).
    """
    win, (filters, channels) = problem.win, problem.w[:2]
    plain = win.kernel == win.stride == (1, 1) and not any(map(any, win.padding)) and problem.groups == 1
    pixels = problem.x[0] * prod(win.output)
    narrow = channels <= _NARROW_CHANNELS and filters >= max(2 * channels, _FEW_FILTERS + 1)
    return plain and narrow and pixels >= _NARROW_PIXELS


def _filled(problem: Problem, filters: int, lanes: int) -> float:
    """By how much the last vector of each image, partly empty, lengthens a sum by slices, 7 x 7 outputs fill 49 of 64 lanes; or
    what images of up to one long vector leave empty of the vectors that they share."""
    forward = problem.direction == FORWARD
    taps = prod(problem.w[1:]) if forward else problem.w[0] // problem.groups * prod(problem.w[2:]) // prod(problem.win.stride)
    pixels = prod(problem.y[2:]) if forward else -(-prod(problem.x[2:]) // prod(problem.win.stride))
    if 2 * taps <= 3 * _SLICE or filters < _SLICE_FILTERS:
        return _SMALL_IMAGES if 1 < pixels <= lanes and lanes >= _MANY_LANES else 1.0
    whole, rest = divmod(pixels, lanes)
    if whole > 0 and 0 < rest <= _REST and max(problem.win.kernel) > 3:
        return (whole + _REST_COST) * lanes / pixels
    return -(-pixels // lanes) * lanes / pixels


def cost(problem: Problem, machine: Machine) -> float:
    """Microseconds on one thread, by constants measured with tools/costs.py.

    The multiply-adds at the tile's speed, less what its rows and vectors leave empty; what is copied, packed and stored in
    pieces, in nanoseconds a value; and 4 us for the call.
    """
    channels, filters, taps = problem.w[1], problem.w[0] // problem.groups, prod(problem.w[2:])
    x, y, thinned = prod(problem.x), prod(problem.y), prod(problem.win.stride)
    size = np.dtype(problem.dtype).itemsize
    products, stores = float(problem.work), 0.0
    if not problem.depthwise and (part := live_part(problem)) is not problem:
        return cost(part, machine) + 0.3e-3 * prod(part.w)
    if small_images.weight_is_product(problem) if problem.direction == WEIGHT_GRADIENT else is_product(problem):
        return small_images.cost(problem, machine)
    if problem.depthwise:
        return 4 + 1e-3 * (1.2 * size * products / machine.gflops + 0.2 * (x + y))
    if problem.direction == FORWARD:
        rows, stores, moved, packed = filters, 8 / (channels * taps), 0.15 * (x + y), 0.45
    elif problem.direction == INPUT_GRADIENT:
        rows, products = channels, x * filters * taps // thinned
        stores, moved = 8 * thinned / (filters * taps), 0.15 * (x + y)
        packed = 0.65 if thinned == 1 else 1.0
    else:
        rows, vector, moved, packed = channels * taps, machine.lanes(problem.dtype), 0.15 * x + 0.3 * y, 0.75
        if not _pixels_for_lanes(problem):
            products *= -(-filters // vector) * vector / filters
    if problem.direction in (FORWARD, INPUT_GRADIENT):
        products *= _filled(problem, rows, machine.lanes(problem.dtype))
    # A tile of fewer rows than 4 waits for its sums; rows are shared out evenly among tiles.
    waiting = max(1, 4 / (rows / -(-rows // machine.rows)))
    sums = 0.5 * size * products / machine.gflops * waiting * (1 + stores) + moved + packed * prod(problem.w)
    return 4 + 1e-3 * sums + machine.microseconds(machine.copied_row * _copied_rows(problem))


def _copied_rows(problem: Problem) -> int:
    """Rows of single channels that are copied between their margins: none of 1 x 1 kernels. Weight gradients take twice as long
    for one, but read x where it lies if nothing is padded."""
    win, height = problem.win, problem.w[2]
    if prod(problem.w[2:]) == 1:
        return 0
    if problem.direction == WEIGHT_GRADIENT:
        padded = any(map(any, win.padding))
        return 2 * padded * prod(problem.x[:2]) * (win.output[0] * win.stride[0] + height - 1)
    images, channels, rows, _ = problem.x if problem.direction == FORWARD else problem.y
    return images * channels * (rows + height - 1)


def forward(problem: Problem, relu: bool) -> Forward:
    """y, or max(y, 0)."""
    if problem.depthwise:
        return depthwise.forward(problem, relu)
    if (part := live_part(problem)) is not problem:
        return of_part(problem, forward(part, relu))
    if is_product(problem):
        return small_images.forward(problem, relu)
    kernel = kernels.compiled(problem.type).conv2d
    how = geometry(problem), problem.groups, False, ceiling(relu), threads_for(problem.work), False
    return forward_call(kernel, problem, *how, None, None)


def forward_fused(problem: Problem, relu: bool | float, residual: bool, pooled: bool, kept: Kept | None) -> FusedForward | None:
    """y times a scale, which goes into the filters as they are packed, plus a shift and a residual, or each 2 x 2's maximum.

    None for a residual or maximum of depthwise kernels, for an upper bound or maximum of a sum, and for the maximum of 1 x 1
    kernels, which take an image as one row.
    """
    if residual and (problem.depthwise or pooled or isinstance(relu, float)):
        return None
    if pooled and (problem.depthwise or problem.win.kernel == (1, 1)):
        return None
    if problem.depthwise:
        return depthwise.forward_fused(problem, relu)
    if (part := live_part(problem)) is not problem:
        fused = forward_fused(part, relu, residual, pooled, kept)
        return None if fused is None else of_part(problem, fused)
    if is_product(problem):
        return None
    kernel = kernels.compiled(problem.type).conv2d
    how = geometry(problem), problem.groups, False, ceiling(relu), threads_for(problem.work), pooled
    return fused_call(kernel, problem, pooled, *how)


def backward_input(problem: Problem) -> Backward:
    """dx."""
    if problem.depthwise:
        return depthwise.backward_input(problem)
    if (part := live_part(problem)) is not problem:
        return of_part(problem, backward_input(part))
    if is_product(problem):
        return small_images.backward_input(problem)
    kernel = kernels.compiled(problem.type).conv2d
    how = geometry(problem), problem.groups, True, 0.0, threads_for(problem.work), False
    return input_call(kernel, problem, *how, None, None)


def backward_weight(problem: Problem) -> Backward:
    """dw."""
    if problem.depthwise:
        return depthwise.backward_weight(problem)
    if (part := live_part(problem)) is not problem:
        return gradient_of_part(problem, backward_weight(part))
    if small_images.weight_is_product(problem):
        return small_images.backward_weight(problem)
    how = *geometry(problem), problem.groups, threads_for(problem.work)
    if not _pixels_for_lanes(problem):
        call = _transposed_call if _narrow(problem) else weight_call
        return call(kernels.compiled(problem.type).conv2d_backward_weight, problem, *how, None)
    compiled = kernels.unrecorded(problem.type)

    def few(dy: np.ndarray, x: np.ndarray, dw: np.ndarray, *at_stride_1: Any) -> None:
        if not compiled.conv2d_backward_weight_few(dy, x, dw, *at_stride_1):
            compiled.conv2d_backward_weight(dy, x, dw, *how, None)

    return weight_call(kernels.recorded(few), problem, *how[2:])


def _transposed_call(kernel: Callable, problem: Problem, *how: Any) -> Backward:
    filters, channels = problem.w[:2]

    def run(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        turned = memory.empty((channels, filters, 1, 1), problem.type)
        kernel(x, dy, turned, *how)
        dw = memory.empty(problem.w, problem.type)
        kernels.run(np.copyto, dw, turned.transpose(1, 0, 2, 3))
        return dw

    return run


def backward_both(problem: Problem) -> BackwardBoth | None:
    """dw and db; None for depthwise kernels, few filters, few channels and small images, which have none of that."""
    if problem.depthwise or _narrow(problem) or _pixels_for_lanes(problem) or not prod(problem.x):
        return None
    if live_part(problem) is not problem or small_images.weight_is_product(problem):
        return None
    kernel = kernels.compiled(problem.type).conv2d_backward_weight
    return both_call(kernel, problem, *geometry(problem), problem.groups, threads_for(problem.work))
