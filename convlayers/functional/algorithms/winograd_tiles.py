"""Winograd's minimal filtering of 3 x 3 and 5 x 5 kernels, rows and columns at stride 1, and of 3 x 3 at 2 (ext/winograd.pxi).

F(m x m, 3 x 3) with m = 4 or 2: a quarter of the multiply-adds of the definition with m = 4, against transforms of the tiles
and of the filters; and F(2 x 2, 5 x 5), 36 products in place of 100. At stride 2, forward and input gradient are made of
F(4, 2) on every second input: 81 products in place of 144. An input gradient at stride 1 is a convolution of dy, or, where dy
has fewer tiles than dx, the transpose of the forward pass, whose tiles overlap (ext/winograd_overlap.pxi).
"""

from math import prod
from typing import Any

from ... import kernels
from ...kernels import threads_for
from . import winograd_lines
from .calls import (
    Backward,
    BackwardBoth,
    BackwardOnto,
    Forward,
    FusedForward,
    Kept,
    WeightAdder,
    both_call,
    ceiling,
    forward_call,
    fused_call,
    input_call,
    onto_call,
    weight_call,
)
from .problem import FORWARD, INPUT_GRADIENT, MACHINES, NEAR_SUMS, WEIGHT_GRADIENT, Machine, Problem, once

# Cycles to transform one vector, by m and the kernel's side: of tiles for one channel, going in or coming out, and of filters;
# and to copy a row of one channel, and the call. Measured on Zen 5, but the filters' on Zen 3, and on Zen 4 those of 5 x 5
# kernels, m = 4 and the weight gradient's: of what 75 layers took, the choice between direct and these lost 2% forward, 5% for
# the input gradient and 2% for the weight gradient with AVX-512, 2, 8 and 4% with AVX2. As many streams are written as there
# are values of a tile, which takes up to three times as long where they leave the caches.
_TILE_CYCLES = {(4, 3): 220, (2, 3): 200, (2, 5): 150}
_GRADIENT_TILE_CYCLES = {(4, 3): 360, (2, 3): 200, (2, 5): 180}  # for the weight gradient, copies included
_FILTER_CYCLES = {(4, 3): 500, (2, 3): 250, (2, 5): 700}
_STRIDED_CYCLES = {FORWARD: 600, INPUT_GRADIENT: 750}  # at stride 2, of tiles, in or out; measured on Emerald Rapids
_CACHED_BYTES = 16e6
_ROW_CYCLES = 8
# To add up a vector of a row of overlapping tiles, for each of the tiles that may reach it (Zen 4); and the bytes of tiles that
# a block has room for, which is of whole images there.
_PIECE_CYCLES = 4
_BLOCK_BYTES = 640 * 1024
_MANY_IMAGES = 16
_CALL_CYCLES = 16_000
# Bytes of filters beyond which those transformed are not kept: a copy and what is made of it are up to five times as many, for
# each size of tile.
_MOST_KEPT = 5 << 19


def tile_cost(problem: Problem, machine: Machine, m: int, share: float = 1, overlaps: bool = False) -> float:
    """Microseconds on one thread with tiles of m x m outputs, where `share` of the products are computed."""
    lanes, stride, taps = machine.lanes(problem.dtype), problem.win.stride[0], problem.win.kernel[0]
    filters, channels = problem.w[:2]
    height, width = problem.x[2:] if problem.direction == INPUT_GRADIENT and not overlaps else problem.win.output
    side = m * stride if problem.direction == INPUT_GRADIENT else m
    lines, across = -(-height // side), -(-width // side)
    vectors = -(-problem.x[0] * lines * across // lanes)
    if overlaps:
        room = _BLOCK_BYTES * lanes // (machine.vector_bytes * (m + taps - 1) ** 2 * (channels + filters // problem.groups))
        images = min(problem.x[0], max(1, max(2 * lanes, room) // (lines * across)))
        vectors = -(-problem.x[0] // images) * -(-images * lines * across // lanes)
    sums: float = (m + taps - 1 if stride == 1 else 9) ** 2 * vectors * lanes * filters * channels
    # Starting a tile takes as long as seven of its steps; one of fewer rows than 4 waits for its sums.
    rows, depth = filters / problem.groups, float(channels)
    if problem.direction == INPUT_GRADIENT:
        rows, depth = depth, rows
    sums *= share * (1 + 7 / depth) * max(1, 4 / rows)
    if problem.direction == WEIGHT_GRADIENT and (m + taps - 1) ** 2 * filters * channels > NEAR_SUMS:
        sums *= machine.far_sums
    transformed = (m + taps - 1) ** 2 * filters * channels * machine.vector_bytes / lanes
    if problem.direction != WEIGHT_GRADIENT and vectors * lanes <= machine.few_tiles:
        transformed = 0
    cycles = filters * channels / lanes * _FILTER_CYCLES[m, taps] * (1 + min(2.0, transformed / _CACHED_BYTES)) + _CALL_CYCLES
    if problem.direction == WEIGHT_GRADIENT:
        cycles += vectors * (problem.x[1] + filters) * _GRADIENT_TILE_CYCLES[m, taps] * machine.gradient_tiles
    else:
        transform = _TILE_CYCLES[m, taps] if stride == 1 else _STRIDED_CYCLES[problem.direction]
        cycles += vectors * (problem.x[1] + filters) * transform
        cycles += problem.x[0] * problem.x[1] * (lines * m + taps - 1) * _ROW_CYCLES
    if overlaps:
        pieces = -(-(m + taps - 1) // m)
        cycles += problem.x[0] * problem.x[1] * problem.x[2] * -(-problem.x[3] // lanes) * pieces**2 * _PIECE_CYCLES
    return 2e-3 * sums / machine.gflops_of(problem.dtype) + machine.microseconds(cycles)


def _tile_sizes(problem: Problem) -> list[int]:
    if problem.win.kernel == (5, 5):
        return [2]
    return [4, 2] if problem.win.stride == (1, 1) else [4]


def _overlaps(problem: Problem, machine: Machine) -> bool:
    """Whether tiles that overlap cost less: as for many images, so that an image has the same bits in every batch."""
    if problem.direction != INPUT_GRADIENT or problem.win.stride != (1, 1):
        return False
    many, sizes = problem._replace(x=(_MANY_IMAGES, *problem.x[1:])), _tile_sizes(problem)
    return tile_cost(many, machine, sizes[0], overlaps=True) < min(tile_cost(many, machine, m) for m in sizes)


def _tiling(problem: Problem, machine: Machine) -> tuple[int, bool]:
    """m, and whether tiles overlap: what costs least."""
    sizes = _tile_sizes(problem)
    if _overlaps(problem, machine):
        return sizes[0], True
    return min(sizes, key=lambda m: tile_cost(problem, machine, m)), False


def cost(problem: Problem, machine: Machine) -> float:
    """Microseconds on one thread, with the best of the tiles."""
    if winograd_lines.takes(problem.win):
        return winograd_lines.cost(problem, machine)
    m, overlaps = _tiling(problem, machine)
    return tile_cost(problem, machine, m, overlaps=overlaps)


@once
def _arguments(problem: Problem) -> tuple[int, ...]:
    (top, _), (left, _) = problem.win.padding
    m, overlaps = winograd_lines.outputs(problem.win), False
    if not winograd_lines.takes(problem.win):
        m, overlaps = _tiling(problem.typical, MACHINES[problem.isa])
    return m, problem.win.stride[0], top, left, problem.groups, 0, overlaps


def forward(problem: Problem, relu: bool) -> Forward:
    """y, or max(y, 0)."""
    kernel = kernels.compiled(problem.type).winograd
    how = _arguments(problem), False, ceiling(relu), threads_for(problem.work), None, False
    return forward_call(kernel, problem, *how, None, None)


def fused(
    problem: Problem, tiles: tuple[int, ...], relu: bool | float, residual: bool, pooled: bool, kept: Kept | None
) -> FusedForward | None:
    """`forward_fused` with the kernel's `tiles`."""
    if residual and (pooled or isinstance(relu, float)):
        return None
    if pooled and (problem.win.stride != (1, 1) or winograd_lines.takes(problem.win)):
        return None
    place = None
    if kept is not None and prod(problem.w) * problem.type.itemsize <= _MOST_KEPT:
        place = kept, (problem.isa, problem.dtype, problem.w, *tiles)
    kernel = kernels.compiled(problem.type).winograd
    return fused_call(kernel, problem, pooled, tiles, False, ceiling(relu), threads_for(problem.work), place, pooled)


def forward_fused(problem: Problem, relu: bool | float, residual: bool, pooled: bool, kept: Kept | None) -> FusedForward | None:
    """y times a scale, plus a shift and a residual, in the last pass, or the maximum of each 2 x 2 of it, at stride 1; None for
    an upper bound of a sum, for the maximum of one, and for maxima behind a row or column of taps."""
    return fused(problem, _arguments(problem), relu, residual, pooled, kept)


def input_gradient(problem: Problem, tiles: tuple[int, ...]) -> Backward:
    """`backward_input` with the kernel's `tiles`."""
    kernel = kernels.compiled(problem.type).winograd
    return input_call(kernel, problem, tiles, True, 0.0, threads_for(problem.work), None, False, None, None)


def backward_input(problem: Problem) -> Backward:
    """dx."""
    return input_gradient(problem, _arguments(problem))


def backward_input_onto(problem: Problem) -> BackwardOnto | None:
    """dx and an array of its shape that is added in the last pass."""
    kernel = kernels.compiled(problem.type).winograd
    return onto_call(kernel, problem, _arguments(problem), True, 0.0, threads_for(problem.work), None, False)


def weight_kernel(problem: Problem, tiles: tuple[int, ...]) -> tuple[Any, ...]:
    """The kernel of the weight gradient and its arguments."""
    m, _, top, left, groups, *_ = tiles
    return kernels.compiled(problem.type).winograd_backward_weight, problem, m, top, left, groups, threads_for(problem.work)


def backward_weight(problem: Problem) -> Backward:
    """dw."""
    return weight_call(*weight_kernel(problem, _arguments(problem)), False, None)


def backward_both(problem: Problem) -> BackwardBoth | None:
    """dw and db; None for no images."""
    if not problem.work:
        return None
    return both_call(*weight_kernel(problem, _arguments(problem)), False)


def add_backward_weight(problem: Problem) -> WeightAdder | None:
    """A function of dy, x and what dw and db are added to."""
    kernel, _, *how = weight_kernel(problem, _arguments(problem))
    return lambda dy, x, dw, db: kernel(dy, x, dw, *how, True, db) if x.size else None
