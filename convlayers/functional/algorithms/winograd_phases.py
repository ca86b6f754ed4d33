"""Winograd's minimal filtering at stride 2, for kernels of up to 6 x 6: as one of 3 x 3 at stride 1 of an image's phases.

A phase (a, b) is every second row and column of an image from row a and column b on, and what a tap k = 2 o + a + top sees
of it at output p is its row p + o:

    y_p = sum_a sum_o x_a[p + o] w_a[o]        x_a[i] = x[2 i + a],  w_a[o] = w[2 o + a + top]

So the four phases are as many channels of an image of half the size (ext/phases.pxi), and where a kernel's o span three pixels
one of 3 x 3 taps convolves them. A phase with fewer taps than three has zeros before or behind them, and of its transformed
filters the values that are its first tap alone, or its last, are zero and not multiplied with: with 5 x 5 taps 121 products
stand for 400, with 4 x 4 100 for 256.
"""

from math import prod
from typing import NamedTuple

import numpy as np

from ... import kernels
from ...kernels import memory, threads_over
from ...shapes import Window
from . import winograd_tiles
from .calls import Backward, BackwardBoth, Forward, FusedForward, Kept, Maybe, both_call, weight_call
from .problem import INPUT_GRADIENT, MACHINES, WEIGHT_GRADIENT, Machine, Problem, once

_TAPS = 3
_TILE, _SMALL_TILE = 4, 2  # outputs along its side
# Cycles to bring one value to its phase or back, most of which is the memory's; measured on Zen 4.
_VALUE_CYCLES = 1.0


def _first(top: int) -> int:
    """The least o."""
    return -((top + 1) // 2)


def _span(kernel: int, top: int) -> int:
    """Pixels of a phase that the taps of one axis reach over."""
    return (kernel - 1 - top) // 2 - _first(top) + 1


def _ends(kernel: int, top: int) -> list[tuple[int, int]]:
    """Of each phase of an axis, how many of three taps are missing before its first one and behind its last."""
    slots = [range(-((a + top) // 2) - _first(top), (kernel - 1 - a - top) // 2 - _first(top) + 1) for a in (0, 1)]
    return [(taps.start, _TAPS - taps.stop) for taps in slots]


def takes(win: Window) -> bool:
    """Whether there are enough taps for it to pay, and no more than three of a phase."""
    return min(win.kernel) >= 3 and all(
        _span(kernel, top) <= _TAPS for kernel, (top, _) in zip(win.kernel, win.padding, strict=True)
    )


class _Phases(NamedTuple):
    problem: Problem  # of the phases
    odd: tuple[int, int]  # whether the kernel's first row and column belong to the second phase
    ends: tuple[list[tuple[int, int]], ...]  # of each axis

    def idle(self, flipped: bool) -> int:
        """What the kernel calls so: bits of each axis and phase, for the first value and the last."""
        bits = 0
        for axis, phases in enumerate(self.ends):
            for phase, (before, behind) in enumerate(phases):
                first, last = (behind, before) if flipped else (before, behind)
                bits |= ((first > 0) + 2 * (last > 0)) << 4 * axis + 2 * phase
        return bits

    @property
    def share(self) -> float:
        """Of the products, those that are computed."""
        size = _TILE + _TAPS - 1
        return prod(1 - sum((n > 0) for ends in phases for n in ends) / (2 * size) for phases in self.ends)


@once
def _phases(problem: Problem) -> _Phases:
    (n, channels, *size), win = problem.x, problem.win
    tops = tuple(before for before, _ in win.padding)
    halves = [-(-pixels // 2) for pixels in size]
    firsts = [_first(top) for top in tops]
    behind = [out + _TAPS - 1 - half + first for out, half, first in zip(win.output, halves, firsts, strict=True)]
    padding = tuple((-first, after) for first, after in zip(firsts, behind, strict=True))
    inner = problem._replace(
        x=(n, 4 * channels, *halves),
        w=(problem.w[0], 4 * problem.w[1], _TAPS, _TAPS),
        win=Window((_TAPS, _TAPS), (1, 1), (1, 1), padding, win.output),
    )
    ends = tuple(_ends(*axis) for axis in zip(win.kernel, tops, strict=True))
    return _Phases(inner, (tops[0] % 2, tops[1] % 2), ends)


@once
def _tile(problem: Problem) -> int:
    """m: for filters' gradients what costs less, which few gradients do with small tiles. Those have smaller errors too: of a
    column or two, F(3, 4) has half of what a sum of so few products may have."""
    if problem.direction != WEIGHT_GRADIENT:
        return _TILE
    inner, machine = _phases(problem).problem, MACHINES[problem.isa]
    return min((_TILE, _SMALL_TILE), key=lambda m: winograd_tiles.tile_cost(inner, machine, m))


def cost(problem: Problem, machine: Machine) -> float:
    """Microseconds on one thread."""
    phases = _phases(problem)
    inner = phases.problem
    share = 1.0 if problem.direction == WEIGHT_GRADIENT else phases.share
    values = (prod(inner.x) + prod(inner.w)) * machine.vector_bytes / machine.lanes(problem.dtype) / 4
    tiles = winograd_tiles.tile_cost(inner, machine, _tile(problem), share)
    return machine.phases * (tiles + machine.microseconds(_VALUE_CYCLES * values))


@once
def _tiles(problem: Problem) -> tuple[int, ...]:
    """m, stride, padding and groups of the convolution of phases, and what of its filters is zero."""
    phases = _phases(problem)
    (top, _), (left, _) = phases.problem.win.padding
    return _tile(problem), 1, top, left, problem.groups, phases.idle(problem.direction == INPUT_GRADIENT), False


def _moved(array: np.ndarray, shape: tuple[int, ...], groups: int, odd: tuple[int, int], join: bool) -> np.ndarray:
    """The phases, of `shape`, of images, those of a group's channels after each other; or with `join` the images of phases."""
    moved = memory.empty(shape, array.dtype)
    source, target = (a.reshape(len(a) * groups, a.shape[1] // groups, *a.shape[2:]) for a in (array, moved))
    kernels.compiled(array.dtype).phases(source, target, *odd, 2, 2, join, threads_over(array.size))
    return moved


_EVEN = 0, 0


def forward_fused(problem: Problem, relu: bool | float, residual: bool, pooled: bool, kept: Kept | None) -> FusedForward | None:
    """y times a scale, plus a shift and a residual, or each 2 x 2's maximum, in the last pass; None for an upper bound or
    maximum of a sum."""
    inner, odd, _ = _phases(problem)
    convolve = winograd_tiles.fused(inner, _tiles(problem), relu, residual, pooled, kept)
    if convolve is None:
        return None

    def run(x: np.ndarray, w: np.ndarray, scale: Maybe, shift: Maybe, added: Maybe) -> np.ndarray:
        return convolve(
            _moved(x, inner.x, problem.groups, _EVEN, False), _moved(w, inner.w, 1, odd, False), scale, shift, added
        )

    return run


def forward(problem: Problem, relu: bool) -> Forward:
    """y, or max(y, 0)."""
    run = forward_fused(problem, relu, False, False, None)
    assert run is not None
    return lambda x, w, bias: run(x, w, None, bias, None)


def backward_input(problem: Problem) -> Backward:
    """dx."""
    inner, odd, _ = _phases(problem)
    convolve = winograd_tiles.input_gradient(inner, _tiles(problem))
    return lambda dy, w: _moved(convolve(dy, _moved(w, inner.w, 1, odd, False)), problem.x, problem.groups, _EVEN, True)


def backward_weight(problem: Problem) -> Backward:
    """dw."""
    inner, odd, _ = _phases(problem)
    sums = weight_call(*winograd_tiles.weight_kernel(inner, _tiles(problem)), False, None)
    return lambda dy, x: _moved(sums(dy, _moved(x, inner.x, problem.groups, _EVEN, False)), problem.w, 1, odd, True)


def backward_both(problem: Problem) -> BackwardBoth:
    """dw and db."""
    inner, odd, _ = _phases(problem)
    sums = both_call(*winograd_tiles.weight_kernel(inner, _tiles(problem)), False)

    def run(dy: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dw, db = sums(dy, _moved(x, inner.x, problem.groups, _EVEN, False))
        return _moved(dw, problem.w, 1, odd, True), db

    return run
