"""Convolutions along one and three axes by those along two, so that every algorithm serves them.

A sequence is an image of one row, and neighbouring axes of a volume along which nothing slides are one axis: the same arrays
seen otherwise (`Viewed`). For other volumes, the taps along the depth are written out as channels (`Unrolled`):

    columns[n p, c t, h, w] = x[n, c, p s + t d - pad, h, w]        y[n, m, p] = conv2d(columns[n p], w[m, c t])

Both keep the contract of an algorithm (see `convlayers.functional.plan`), for problems of their own rank.
"""

from collections.abc import Iterator
from itertools import product
from math import prod
from types import ModuleType
from typing import NamedTuple

import numpy as np

from ... import kernels
from ...kernels import memory
from ...shapes import Window
from .calls import Backward, BackwardBoth, BackwardOnto, Forward, FusedForward, Kept, Maybe, WeightAdder
from .problem import Problem

# Bytes of columns held at once: few enough to be in a cache when they are read, and enough for one call of an algorithm.
_SLAB = 4 * 2**20


class Viewed(NamedTuple):
    """An algorithm, and the 2-d problem whose arrays are views of the problem's."""

    algorithm: ModuleType
    flat: Problem

    def forward(self, problem: Problem, relu: bool) -> Forward:
        """y, or max(y, 0)."""
        flat, run = self.flat, self.algorithm.forward(self.flat, relu)
        return lambda x, w, bias: run(x.reshape(flat.x), w.reshape(flat.w), bias).reshape(problem.y)

    def forward_fused(
        self, problem: Problem, relu: bool | float, residual: bool, pooled: bool, kept: Kept | None
    ) -> FusedForward | None:
        """y times a scale, plus a shift and a residual; None for the maximum of pixels, which are no neighbours here."""
        flat, fused_of = self.flat, getattr(self.algorithm, "forward_fused", None)
        run = None if pooled or fused_of is None else fused_of(self.flat, relu, residual, False, kept)
        if run is None:
            return None

        def viewed(x: np.ndarray, w: np.ndarray, scale: Maybe, shift: Maybe, added: Maybe) -> np.ndarray:
            y: np.ndarray = run(x.reshape(flat.x), w.reshape(flat.w), scale, shift, added)
            return y.reshape(problem.y)

        return viewed

    def backward_input(self, problem: Problem) -> Backward:
        """dx."""
        flat, run = self.flat, self.algorithm.backward_input(self.flat)
        return lambda dy, w: run(dy.reshape(flat.y), w.reshape(flat.w)).reshape(problem.x)

    def backward_input_onto(self, problem: Problem) -> BackwardOnto | None:
        """dx and an array of its shape, where the algorithm adds one."""
        flat, onto_of = self.flat, getattr(self.algorithm, "backward_input_onto", None)
        run = onto_of(flat) if onto_of is not None else None
        if run is None:
            return None

        def onto(dy: np.ndarray, w: np.ndarray, array: np.ndarray) -> np.ndarray:
            dx: np.ndarray = run(dy.reshape(flat.y), w.reshape(flat.w), array.reshape(flat.x))
            return dx.reshape(problem.x)

        return onto

    def backward_weight(self, problem: Problem) -> Backward:
        """dw."""
        flat, run = self.flat, self.algorithm.backward_weight(self.flat)
        return lambda dy, x: run(dy.reshape(flat.y), x.reshape(flat.x)).reshape(problem.w)

    def backward_both(self, problem: Problem) -> BackwardBoth | None:
        """dw and db, where the algorithm gives both."""
        flat, both_of = self.flat, getattr(self.algorithm, "backward_both", None)
        run = both_of(flat) if both_of is not None else None
        if run is None:
            return None

        def both(dy: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            dw, db = run(dy.reshape(flat.y), x.reshape(flat.x))
            return dw.reshape(problem.w), db

        return both

    def add_backward_weight(self, problem: Problem) -> WeightAdder | None:
        """A function of dy, x and what dw and db are added to, where the algorithm has one."""
        flat, add_of = self.flat, getattr(self.algorithm, "add_backward_weight", None)
        run = add_of(flat) if add_of is not None else None
        if run is None:
            return None
        return lambda dy, x, dw, db: run(dy.reshape(flat.y), x.reshape(flat.x), dw.reshape(flat.w), db)


class Unrolled(NamedTuple):
    """An algorithm, and the 2-d problem of all columns; it is computed slab by slab, to bound the memory."""

    algorithm: ModuleType
    flat: Problem

    def forward(self, problem: Problem, relu: bool) -> Forward:
        """y, or max(y, 0)."""

        def run(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
            y = memory.empty(problem.y, x.dtype)
            for slab in _slabs(problem, self.flat):
                planes = self.algorithm.forward(slab.flat, relu)(slab.columns(x), w.reshape(self.flat.w), bias)
                kernels.run(np.copyto, y[slab.images, :, slab.depths], slab.outputs(planes))
            return y

        return run

    def backward_input(self, problem: Problem) -> Backward:
        """dx: every column goes back to where it was read."""

        def run(dy: np.ndarray, w: np.ndarray) -> np.ndarray:
            dx = memory.empty(problem.x, dy.dtype)
            kernels.run(np.copyto, dx, 0)
            for slab in _slabs(problem, self.flat):
                slab.fold(self.algorithm.backward_input(slab.flat)(slab.planes(dy), w.reshape(self.flat.w)), dx)
            return dx

        return run

    def backward_weight(self, problem: Problem) -> Backward:
        """dw."""

        def run(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
            dw = memory.empty(self.flat.w, x.dtype)
            kernels.run(np.copyto, dw, 0)
            for slab in _slabs(problem, self.flat):
                kernels.run(np.add, dw, self.algorithm.backward_weight(slab.flat)(slab.planes(dy), slab.columns(x)), dw)
            return dw.reshape(problem.w)

        return run


class Slab(NamedTuple):
    """Some images, some of their outputs along the depth, and the 2-d problem of these."""

    problem: Problem
    images: slice
    depths: slice
    flat: Problem

    @property
    def _counts(self) -> tuple[int, int]:
        return self.images.stop - self.images.start, self.depths.stop - self.depths.start

    @property
    def _columns(self) -> tuple[int, ...]:
        _, channels, _, *size = self.problem.x
        return (*self._counts, channels, self.problem.w[2], *size)

    def _taps(self) -> Iterator[tuple[int, slice, slice]]:
        """Each tap along the depth, the outputs for which it reads no padding, and the depths of x that it reads."""
        size, (before, _), (start, stop) = self.problem.x[2], self.problem.win.padding[0], (self.depths.start, self.depths.stop)
        step, dilation = self.problem.win.stride[0], self.problem.win.dilation[0]
        for tap in range(self.problem.w[2]):
            first = tap * dilation - before
            begin = min(max(start, -(first // step)), stop)
            end = max(min(stop, -((first - size) // step)), begin)
            yield tap, slice(begin - start, end - start), slice(begin * step + first, end * step + first, step)

    def columns(self, x: np.ndarray) -> np.ndarray:
        """What the outputs read, zeros where that is padding."""
        columns = memory.empty(self._columns, x.dtype)
        kernels.run(self._fill_columns, x, columns)
        return columns.reshape(self.flat.x)

    def _fill_columns(self, x: np.ndarray, columns: np.ndarray) -> None:
        for tap, outputs, depths in self._taps():
            columns[:, : outputs.start, :, tap] = 0
            columns[:, outputs, :, tap] = x[self.images, :, depths].swapaxes(1, 2)
            columns[:, outputs.stop :, :, tap] = 0

    def fold(self, columns: np.ndarray, x: np.ndarray) -> None:
        """The transpose of `columns`: adds each to where it was read."""
        kernels.run(self._fold, columns.reshape(self._columns), x)

    def _fold(self, columns: np.ndarray, x: np.ndarray) -> None:
        for tap, outputs, depths in self._taps():
            x[self.images, :, depths] += columns[:, outputs, :, tap].swapaxes(1, 2)

    def planes(self, y: np.ndarray) -> np.ndarray:
        """The outputs as images."""
        planes = memory.empty(self.flat.y, y.dtype)
        kernels.run(np.copyto, self.outputs(planes), y[self.images, :, self.depths])
        return planes

    def outputs(self, planes: np.ndarray) -> np.ndarray:
        """The transpose of `planes`, a view."""
        return planes.reshape(*self._counts, *planes.shape[1:]).swapaxes(1, 2)


def _slabs(problem: Problem, flat: Problem) -> Iterator[Slab]:
    count, depths = problem.x[0], problem.win.output[0]
    # By sizes alone, as the sum over slabs decides the bits of a weight gradient.
    together = max(1, _SLAB // (max(prod(flat.x[1:]), prod(flat.y[1:])) * np.dtype(problem.dtype).itemsize))
    for some, rows in product(_parts(count, together // depths), _parts(depths, together)):
        size = (some.stop - some.start) * (rows.stop - rows.start)
        yield Slab(problem, some, rows, flat._replace(x=(size, *flat.x[1:])))


def _parts(count: int, most: int) -> list[slice]:
    """`count` in equal parts of at most `most`, and of one at least."""
    parts = -(-count // max(most, 1))
    return [slice(i * count // parts, (i + 1) * count // parts) for i in range(parts)]


def in_two_axes(problem: Problem) -> tuple[Problem, type[Viewed] | type[Unrolled] | None]:
    """The 2-d problem for a problem along one, two or three axes, and what takes an algorithm from one to the other."""
    x, w, win = problem.x, problem.w, problem.win
    if len(win.kernel) == 2:
        return problem, None
    if len(win.kernel) == 1:
        row = Window((1, *win.kernel), (1, *win.stride), (1, *win.dilation), ((0, 0), *win.padding), (1, *win.output))
        return problem._replace(x=(*x[:2], 1, *x[2:]), w=(*w[:2], 1, *w[2:]), win=row), Viewed
    still = [steps == (1, 1, (0, 0)) for steps in zip(win.kernel, win.stride, win.padding, strict=True)]
    if still[1] and still[2]:
        plane = _kept(win, slice(0, 2), (win.output[0], win.output[1] * win.output[2]))
        return problem._replace(x=(*x[:3], x[3] * x[4]), w=w[:4], win=plane), Viewed
    if still[0] and still[1]:
        plane = _kept(win, slice(1, 3), (win.output[0] * win.output[1], win.output[2]))
        return problem._replace(x=(*x[:2], x[2] * x[3], x[4]), w=(*w[:2], *w[3:]), win=plane), Viewed
    plane = _kept(win, slice(1, 3), win.output[1:])
    columns, filters = (x[0] * win.output[0], x[1] * w[2], *x[3:]), (w[0], w[1] * w[2], *w[3:])
    return problem._replace(x=columns, w=filters, win=plane), Unrolled


def _kept(win: Window, axes: slice, output: tuple[int, ...]) -> Window:
    return Window(win.kernel[axes], win.stride[axes], win.dilation[axes], win.padding[axes], output)
