"""Winograd's minimal filtering for kernels larger than 3 x 3, block by block of 3 x 3 taps (ext/winograd_blocks.pxi).

F(3 x 3, 3 x 3) makes of a convolution 25, one for each value of a transformed tile of 3 x 3 outputs, over images of tiles and
with a tap for each block: a ninth of the pixels and a ninth of the taps, rounded up, so that 25 products stand for 81. The
weight gradient takes the planes of tiles through memory, and the kernel of any weight gradient for their 25 groups.
"""

from collections.abc import Iterator
from math import prod

import numpy as np

from ... import kernels
from ...kernels import memory, threads_for
from ...shapes import Window
from . import direct
from .calls import Backward, Forward, forward_call, input_call
from .problem import INPUT_GRADIENT, WEIGHT_GRADIENT, Machine, Problem, once

_SIDE = 3  # of a tile of outputs, and of a block of taps
_VALUES = 25  # of a transformed tile
# Bytes of planes of the images that are transformed at once: half of it took 1.15 times as long, twice the same.
_PLANES_BYTES = 8 << 20
# Cycles to transform a vector of tiles of one channel, in or out; in planes of the weight gradient; a block of taps; the call.
# Measured with AVX-512 (Emerald Rapids) and AVX2, less than 4 GHz counted in.
_TILE_CYCLES = 280
_PLANE_CYCLES = 800
_BLOCK_CYCLES = 140
_CALL_CYCLES = 16_000


def _thirds(size: int) -> int:
    return -(-size // _SIDE)


@once
def _planes(problem: Problem) -> Problem:
    """The convolution of images of tiles, padding included, with blocks of taps: 25 groups of channels."""
    channels, filters, outputs = problem.x[1], problem.w[0], problem.win.output
    if problem.direction == INPUT_GRADIENT:
        channels, filters, outputs = filters, channels, problem.x[2:]
    blocks = _thirds(problem.win.kernel[0]), _thirds(problem.win.kernel[1])
    tiles = _thirds(outputs[0]), _thirds(outputs[1])
    win = Window(blocks, (1, 1), (1, 1), ((0, 0), (0, 0)), tiles)
    x = (problem.x[0], _VALUES * channels, tiles[0] + blocks[0] - 1, tiles[1] + blocks[1] - 1)
    w = (_VALUES * filters, channels // problem.groups, *blocks)
    return problem._replace(x=x, w=w, win=win, groups=_VALUES * problem.groups)


def cost(problem: Problem, machine: Machine) -> float:
    """Microseconds on one thread: the products, and the transforms around them."""
    planes, lanes = _planes(problem), machine.lanes(problem.dtype)
    (n, channels, lines_in, across_in), (_, filters, lines, across) = planes.x, planes.y
    vectors = n * (channels * lines_in * -(-across_in // lanes) + filters * lines * -(-across // lanes)) / _VALUES
    cycles = prod(planes.w) / _VALUES * _BLOCK_CYCLES + _CALL_CYCLES
    if problem.direction == WEIGHT_GRADIENT:
        return direct.cost(planes, machine) + machine.microseconds(cycles + vectors * _PLANE_CYCLES)
    # Lanes go on from line to line, what lies between two of them included; a tile of fewer rows than 4 waits for its sums.
    sums = n * prod(planes.w) * -(-lines * across_in // lanes) * lanes * max(1, 4 * planes.groups / planes.w[0])
    return 2e-3 * sums / machine.gflops_of(problem.dtype) + machine.microseconds(cycles + vectors * _TILE_CYCLES)


def forward(problem: Problem, relu: bool) -> Forward:
    """y, or max(y, 0)."""
    (top, _), (left, _) = problem.win.padding
    kernel = kernels.compiled(problem.type).winograd_blocks_forward
    return forward_call(kernel, problem, top, left, problem.groups, False, relu, threads_for(problem.work))


def backward_input(problem: Problem) -> Backward:
    """dx: the convolution of dy with turned kernels."""
    (top, _), (left, _) = problem.win.padding
    pads = problem.win.kernel[0] - 1 - top, problem.win.kernel[1] - 1 - left
    kernel = kernels.compiled(problem.type).winograd_blocks_forward
    return input_call(kernel, problem, *pads, problem.groups, True, False, threads_for(problem.work))


def _parts(problem: Problem) -> Iterator[tuple[slice, Problem]]:
    """The images part by part, by the sizes alone and evenly, and the weight gradient of their planes."""
    planes, n = _planes(problem), problem.x[0]
    values = prod(planes.x[1:]) + prod(planes.y[1:])
    parts = -(-n // max(1, _PLANES_BYTES // (values * np.dtype(problem.dtype).itemsize)))
    for part in range(parts):
        images = slice(part * n // parts, (part + 1) * n // parts)
        yield images, planes._replace(x=(images.stop - images.start, *planes.x[1:]))


def _tiles(images: np.ndarray, shape: tuple[int, ...], top: int, left: int, gradient: bool, threads: int) -> np.ndarray:
    """Planes of transformed tiles, of `shape`: the channels of one value after those of another."""
    tiles = memory.empty(shape, images.dtype)
    kernels.compiled(images.dtype).winograd_blocks_input(images, tiles, top, left, gradient, threads)
    return tiles


def backward_weight(problem: Problem) -> Backward:
    """dw."""
    threads, parts, kernel = (
        threads_for(problem.work),
        list(_parts(problem)),
        kernels.compiled(problem.type).winograd_blocks_weight,
    )
    (top, _), (left, _) = problem.win.padding
    adding = [direct.backward_weight(planes) for _, planes in parts]

    def run(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        dw = memory.empty(problem.w, problem.type)
        total: np.ndarray | None = None
        for (images, planes), add in zip(parts, adding, strict=True):
            gradients = _tiles(dy[images], planes.y, 0, 0, True, threads)
            sums = add(gradients, _tiles(x[images], planes.x, top, left, False, threads))
            if total is None:
                total = sums
            else:
                kernels.run(np.add, total, sums, total)
        kernel(total, dw, threads)
        return dw

    return run
