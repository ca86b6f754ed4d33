"""Winograd's minimal filtering of kernels with a dilation: of an image's phases, one after the other, without one.

Taps that lie d pixels apart see, of every d-th output, every d-th pixel. So each phase of the padded image is an image of its
own, of a d-th of the rows and columns, and the same kernel, its taps side by side, gives every d-th output of it:

    y[d p + a] = sum_k x_a[p + k] w[k]        x_a[i] = x[d i + a - pad]

The phases of all images are a larger batch (ext/phases.pxi). Where a size does not divide by d, phases end in zeros, and what
comes of them is left out; of the gradient, zeros are what those outputs get.
"""

from math import prod
from types import ModuleType
from typing import NamedTuple

import numpy as np

from ... import kernels
from ...kernels import memory, threads_over
from ...shapes import Window
from .calls import Backward, BackwardBoth, Forward, FusedForward, Kept, Maybe
from .problem import WEIGHT_GRADIENT, Machine, Problem, once

# Cycles to bring one value to its phase or back, by the step along a row: up to four go by vectors; where all rows stay in one
# image, three quarters of it (Zen 3).
_VALUE_CYCLES = {1: 1.5, 2: 1.5, 3: 2.5, 4: 2.5}
_FAR_CYCLES = 6.0
_NO_SHIFT = 0, 0


@once
def phases_of(problem: Problem) -> Problem:
    """The convolution of the phases, a batch of its own; planned as for those of one image or of 16, as `problem` is."""
    inner = _phases(problem)
    if problem.direction != WEIGHT_GRADIENT:
        inner.__dict__["typical"] = typical = _phases(problem.typical)
        typical.__dict__["typical"] = typical
    return inner


def _phases(problem: Problem) -> Problem:
    (n, channels, *size), win = problem.x, problem.win
    shifts = _shifts(problem)
    x = tuple(-(-(pixels + shift) // step) for pixels, shift, step in zip(size, shifts, win.dilation, strict=True))
    output = tuple(-(-pixels // step) for pixels, step in zip(win.output, win.dilation, strict=True))
    before = [top // step for (top, _), step in zip(win.padding, win.dilation, strict=True)]
    sides = zip(before, output, win.kernel, x, strict=True)
    padding = tuple((top, out + taps - 1 - pixels - top) for top, out, taps, pixels in sides)
    still = (1,) * len(size)
    inner = Window(win.kernel, still, still, padding, output)
    return problem._replace(x=(n * prod(win.dilation), channels, *x), win=inner)


def _shifts(problem: Problem) -> tuple[int, ...]:
    """Rows and columns of padding that are no whole steps: the phases begin with them."""
    return tuple(top % step for (top, _), step in zip(problem.win.padding, problem.win.dilation, strict=True))


def _moved(
    array: np.ndarray, shape: tuple[int, ...], steps: tuple[int, ...], shifts: tuple[int, ...], join: bool
) -> np.ndarray:
    """The phases, of `shape`, of images, or with `join` the images of phases."""
    moved = memory.empty(shape, array.dtype)
    kernels.compiled(array.dtype).phases(array, moved, *shifts, *steps, join, threads_over(array.size))
    return moved


class Dilated(NamedTuple):
    """One of Winograd's algorithms for a problem's phases; the functions of an algorithm (plan.py)."""

    kind: ModuleType

    def cost(self, problem: Problem, machine: Machine) -> float:
        """Microseconds on one thread."""
        inner = phases_of(problem)
        microseconds: float = self.kind.cost(inner, machine)
        down, across = problem.win.dilation
        cycles = _VALUE_CYCLES.get(across, _FAR_CYCLES) * (0.75 if down == 1 else 1)
        return microseconds + machine.microseconds(cycles * (prod(inner.x) + prod(inner.y)))

    def forward_fused(
        self, problem: Problem, relu: bool | float, residual: bool, pooled: bool, kept: Kept | None
    ) -> FusedForward | None:
        """y times a scale, plus a shift; None for what else there may be."""
        inner, steps = phases_of(problem), problem.win.dilation
        fused_of = getattr(self.kind, "forward_fused", None)
        convolve = None if residual or pooled or fused_of is None else fused_of(inner, relu, False, False, kept)
        if convolve is None:
            return None

        def run(x: np.ndarray, w: np.ndarray, scale: Maybe, shift: Maybe, added: Maybe) -> np.ndarray:
            y = convolve(_moved(x, inner.x, steps, _shifts(problem), False), w, scale, shift, added)
            return _moved(y, problem.y, steps, _NO_SHIFT, True)

        return run

    def forward(self, problem: Problem, relu: bool) -> Forward:
        """y, or max(y, 0)."""
        inner, steps = phases_of(problem), problem.win.dilation
        convolve = self.kind.forward(inner, relu)

        def run(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
            y = convolve(_moved(x, inner.x, steps, _shifts(problem), False), w, bias)
            return _moved(y, problem.y, steps, _NO_SHIFT, True)

        return run

    def backward_input(self, problem: Problem) -> Backward:
        """dx."""
        inner, steps = phases_of(problem), problem.win.dilation
        convolve = self.kind.backward_input(inner)

        def run(dy: np.ndarray, w: np.ndarray) -> np.ndarray:
            dx = convolve(_moved(dy, inner.y, steps, _NO_SHIFT, False), w)
            return _moved(dx, problem.x, steps, _shifts(problem), True)

        return run

    def backward_weight(self, problem: Problem) -> Backward:
        """dw."""
        sums = self.kind.backward_weight(phases_of(problem))
        return lambda dy, x: sums(*_both_moved(problem, dy, x))

    def backward_both(self, problem: Problem) -> BackwardBoth | None:
        """dw and db, where the kind gives both."""
        both_of = getattr(self.kind, "backward_both", None)
        sums = both_of(phases_of(problem)) if both_of is not None else None
        return sums and (lambda dy, x: sums(*_both_moved(problem, dy, x)))


def _both_moved(problem: Problem, dy: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inner, steps = phases_of(problem), problem.win.dilation
    return _moved(dy, inner.y, steps, _NO_SHIFT, False), _moved(x, inner.x, steps, _shifts(problem), False)
