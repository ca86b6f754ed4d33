"""One computation under every instruction set and thread count that the machine has."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from .. import kernels
from ..kernels import memory
from ..tolerance import largest_error, tolerance

THREADS = (1, 2, 3)


@contextmanager
def threads_at_every_size() -> Iterator[None]:
    """Within this block, kernels use their threads on work of any size: tests are small."""
    before, kernels._SERIAL_WORK = kernels._SERIAL_WORK, -1
    try:
        yield
    finally:
        kernels._SERIAL_WORK = before


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are equal to the bit: dtype, shape, signs of zeros and NaN included."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_same(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray], what: str) -> None:
    """Fail unless both lists hold the same arrays to the bit."""
    for number, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert same_bits(a, b), f"{what}: result {number} differs, by {largest_error(a, b):.3g}"


def assert_close(actual: np.ndarray, expected: np.ndarray, length: int, what: str) -> None:
    """Fail unless `actual` lies within the tolerance of its own dtype for sums of `length` products."""
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}; expected {expected.shape}"
    error, allowed = largest_error(actual, expected), tolerance(actual.dtype, length)
    assert error <= allowed, f"{what}: off by {error:.3g} of the largest value; {allowed:.3g} allowed"


def on_every_machine(compute: Callable[[], Sequence[np.ndarray]]) -> dict[str, list[np.ndarray]]:
    """The results of `compute` under each available instruction set, outputs and scratch memory poisoned.

    Fails unless 1, 2 and 3 threads give the same bits.
    """
    results: dict[str, list[np.ndarray]] = {}
    for isa in kernels.available():
        for threads in THREADS:
            with kernels.using(isa=isa, threads=threads), threads_at_every_size(), memory.poisoned():
                arrays = list(compute())
            assert_same(arrays, results.setdefault(isa, arrays), f"{isa}, {threads} threads against {THREADS[0]}")
    return results
