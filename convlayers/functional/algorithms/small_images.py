"""Images as small as their kernels, or smaller.

A tap that reads padding for every output takes no part: of a 3 x 3 kernel padded by 1, only the tap in the middle meets an
image of 1 x 1 (`live_part`). Where a kernel meets the image once, the convolution is a product of matrices (`is_product`):

    y[n, m] = b[m] + sum_crs x[n, c, r, s] w[m, c, r, s]

The last layers of a ResNet-18 on images of 32 x 32 are of the first kind, squeeze-and-excitation of the second: with a tile of
pixels, of which there is one, such layers took 2 to 14 times as long (Zen 3).
"""

from collections.abc import Callable
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from ... import kernels
from ...kernels import memory, threads_for
from ...shapes import Window
from ..dense import by_rows
from .calls import Backward, Forward, Maybe
from .problem import Machine, Problem, once


@once
def live_taps(problem: Problem) -> tuple[slice, slice]:
    """The taps along each axis that some output reads inside the image."""
    return _live(problem, 0), _live(problem, 1)


def _live(problem: Problem, axis: int) -> slice:
    win, size = problem.win, problem.x[2 + axis]
    count, step, apart, (before, behind) = win.kernel[axis], win.stride[axis], win.dilation[axis], win.padding[axis]

    def meets(tap: int) -> bool:
        shift = tap * apart - before
        first_inside = max(0, -(shift // step))
        return first_inside < win.output[axis] and first_inside * step + shift < size

    first = next(filter(meets, range(count)), None)
    if first is None:
        return slice(0, count)
    last = next(filter(meets, reversed(range(count))))
    # What is left out takes its padding with it: no more than there is.
    return slice(min(first, before // apart), max(last + 1, count - behind // apart))


@once
def live_part(problem: Problem) -> Problem:
    """The same convolution by the live taps, or `problem` itself where they are more than half: they have to be copied."""
    win, taps = problem.win, live_taps(problem)
    kernel = tuple(live.stop - live.start for live in taps)
    if 2 * prod(kernel) > prod(win.kernel):
        return problem
    padding = tuple(
        (before - live.start * apart, behind - (size - live.stop) * apart)
        for live, size, apart, (before, behind) in zip(taps, win.kernel, win.dilation, win.padding, strict=True)
    )
    part = Window(kernel, win.stride, win.dilation, padding, win.output)
    return problem._replace(w=(*problem.w[:2], *kernel), win=part)


@once
def is_product(problem: Problem) -> bool:
    """Whether each filter meets the whole image, once, tap by tap; what is padded behind the image no tap reads then."""
    win = problem.win
    covered = win.output == (1, 1) and win.kernel == problem.x[2:] and not any(before for before, _ in win.padding)
    dense = all(size == 1 or apart == 1 for size, apart in zip(win.kernel, win.dilation, strict=True))
    return covered and dense and problem.groups == 1 and prod(problem.x) > 0


def weight_is_product(problem: Problem) -> bool:
    """The same for the weight gradient, where the kernel for images is as fast with a single tap: 0.6 to 1.3 times (Zen 3)."""
    return is_product(problem) and problem.win.kernel != (1, 1)


def _copy(src: np.ndarray, dst: np.ndarray) -> None:
    """Tap by tap: rows of two or three values at a time, NumPy took ten times as long."""
    for r, s in product(*map(range, src.shape[2:])):
        dst[:, :, r, s] = src[:, :, r, s]


def of_part(problem: Problem, run: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """`run(array, w, ...)` for the live taps of w."""
    rows, columns = live_taps(problem)
    shape = live_part(problem).w

    def bound(array: np.ndarray, w: np.ndarray, *others: Maybe) -> np.ndarray:
        taps = memory.empty(shape, problem.type)
        kernels.run(_copy, w[:, :, rows, columns], taps)
        return run(array, taps, *others)

    return bound


def gradient_of_part(problem: Problem, run: Backward) -> Backward:
    """dw: what `run` gives for the live taps, and zeros."""
    rows, columns = live_taps(problem)

    def bound(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        dw = memory.empty(problem.w, problem.type)
        kernels.run(np.copyto, dw, 0)
        kernels.run(_copy, run(dy, x), dw[:, :, rows, columns])
        return dw

    return bound


class _Sizes(NamedTuple):
    """Of the matrices: x `(images, values)`, w `(filters, values)`, y `(images, filters)`."""

    images: int
    filters: int
    values: int


def _sizes(problem: Problem) -> _Sizes:
    return _Sizes(problem.x[0], problem.w[0], prod(problem.w[1:]))


def cost(problem: Problem, machine: Machine) -> float:
    """Microseconds on one thread: the multiply-adds at half of the tile's speed, and a pass over the filters."""
    size = np.dtype(problem.dtype).itemsize
    return 4 + 1e-3 * (size * problem.work / machine.gflops + 0.3 * prod(problem.w))


def forward(problem: Problem, relu: bool) -> Forward:
    """y, or max(y, 0)."""
    (images, filters, values), compiled = _sizes(problem), kernels.compiled(problem.type)
    # As for one image, so that an image gets the same bits in every batch.
    rows = by_rows(1, filters, values)
    kernel = compiled.gemm_rows if rows else compiled.gemm
    how = *((relu,) if rows else (False, True, relu, False)), threads_for(problem.work)

    def run(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        y = memory.empty((images, filters), problem.type)
        kernel(x.reshape(images, values), w.reshape(filters, values), bias, y, *how)
        return y.reshape(problem.y)

    return run


def backward_input(problem: Problem) -> Backward:
    """dx."""
    images, filters, values = _sizes(problem)
    return _bound_product((images, filters), (filters, values), problem.x, (images, values), problem, False)


def backward_weight(problem: Problem) -> Backward:
    """dw."""
    images, filters, values = _sizes(problem)
    return _bound_product((images, filters), (images, values), problem.w, (filters, values), problem, True)


def _bound_product(
    a_shape: tuple[int, ...],
    b_shape: tuple[int, ...],
    shape: tuple[int, ...],
    flat: tuple[int, ...],
    problem: Problem,
    turned: bool,
) -> Backward:
    """`a @ b`, or `a.T @ b` if `turned`, which is `flat`, in another shape."""
    kernel, threads = kernels.compiled(problem.type).gemm, threads_for(problem.work)

    def run(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        c = memory.empty(flat, problem.type)
        kernel(a.reshape(a_shape), b.reshape(b_shape), None, c, turned, False, False, False, threads)
        return c.reshape(shape)

    return run
