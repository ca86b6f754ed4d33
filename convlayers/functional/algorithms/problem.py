"""What an algorithm is told: one direction of one convolution, and the machine."""

from collections.abc import Callable
from functools import cached_property, wraps
from math import prod
from typing import NamedTuple, TypeVar

import numpy as np

from ...shapes import Window
from .._arrays import window_numbers

FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = DIRECTIONS = ("forward", "input gradient", "weight gradient")

# Values of a weight gradient's transformed filters that stay near: half of a second level of 1 MB.
NEAR_SUMS = 125_000
_FEW_IMAGES = 3
_TYPICAL_BATCH = 16


class _Fields(NamedTuple):
    direction: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    win: Window
    groups: int
    dtype: str
    isa: str


class Problem(_Fields):
    """x `(N, C, H, W)`, w `(M, C/groups, R, S)`; `win.output` is `(P, Q)`. What follows from these is computed once."""

    @cached_property
    def y(self) -> tuple[int, ...]:
        """The output's shape."""
        return (self.x[0], self.w[0], *self.win.output)

    @cached_property
    def type(self) -> np.dtype:
        """That of the arrays."""
        return np.dtype(self.dtype)

    @cached_property
    def work(self) -> int:
        """Multiply-adds by the definition, padding included."""
        return self.x[0] * prod(self.win.output) * prod(self.w)

    @cached_property
    def typical(self) -> "Problem":
        """What the cost models see: one image for a batch of up to 3, else 16: an image has the same bits in either kind.

        For one image, transforming 512 x 512 filters takes three times as long as the definition's sum; for eight it pays. With
        4 x 4 outputs, eight images leave half of the lanes of AVX-512 empty, which larger batches do not.
        Sums over the batch are another matter: the weight gradient is planned for the batch that it has.
        """
        if self.direction == WEIGHT_GRADIENT:
            return self
        return self._replace(x=(1 if self.x[0] <= _FEW_IMAGES else _TYPICAL_BATCH, *self.x[1:]))

    @cached_property
    def depthwise(self) -> bool:
        """Whether every channel is convolved with filters of its own."""
        return self.w[1] == 1 and self.groups > 1


Known = TypeVar("Known")


def once(function: Callable[[Problem], Known]) -> Callable[[Problem], Known]:
    """`function`, computed once for a problem and kept with it: a network asks the same again at every step."""
    key = f"{function.__module__}.{function.__qualname__}"

    @wraps(function)
    def known(problem: Problem) -> Known:
        kept = problem.__dict__
        if key not in kept:
            kept[key] = function(problem)
        value: Known = kept[key]
        return value

    return known


@once
def geometry(problem: Problem) -> tuple[int, ...]:
    """What the kernels take of the window."""
    return window_numbers(problem.win)


class Machine(NamedTuple):
    """What the cost models know of an instruction set."""

    vector_bytes: int
    rows: int  # of the register tile
    gflops: float  # of the register tile on one core, float32
    gigahertz: float = 4.0  # at which cycles of other kernels pass, waits for the caches included
    far_sums: float = 1.0  # how much longer products of weight gradients take whose sums leave the second-level cache
    phases: float = 1.0  # how much longer a strided convolution takes by Winograd over phases than its parts do
    gradient_tiles: float = 1.0  # how long transforms of weight gradients take, of what winograd_tiles.py says
    few_tiles: int = 64  # for so many, transformed filters never leave the second-level cache
    copied_row: float = 0.0  # cycles to copy a row for the direct kernel, where no other constant has them

    def lanes(self, dtype: str) -> int:
        """Values in a vector."""
        return self.vector_bytes // _BYTES[dtype]

    def gflops_of(self, dtype: str) -> float:
        """Of the register tile, for this data type."""
        return self.gflops * 4 / _BYTES[dtype]

    def microseconds(self, cycles: float) -> float:
        """Of so many cycles."""
        return cycles / (1000 * self.gigahertz)


_BYTES = {"float32": 4, "float64": 8}
# Measured on a Zen 5 core with `tools/costs.py`; the order of the algorithms depends on ratios alone. What differs with AVX2 is
# of a Zen 3, with half of the second-level cache: on two threads the choice between direct and Winograd lost 1.7% forward and
# 0.9% for the input gradient of the 88 layers that it was fitted to, and 2.2 and 1.1% of 34 others, drawn at random; with the
# constants of AVX-512 4.8 and 3.7%, and 5.8 and 1.8%. For the weight gradient, whose kernels became faster since, it lost 0.1%
# of 76 layers and 1.7 and 1.2% of 34 and 60 drawn at random, all of which had a part in the fit, and 1.1% of 60 that had none.
MACHINES = {
    "avx512": Machine(64, 14, 230),
    "avx2": Machine(32, 6, 115, gigahertz=3.7, far_sums=1.3, phases=1.35, gradient_tiles=0.85, few_tiles=0, copied_row=8),
    "baseline": Machine(16, 6, 46),
    "wide": Machine(64, 14, 60),
    "scalar": Machine(8, 6, 5),
}
