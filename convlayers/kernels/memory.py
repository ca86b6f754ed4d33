"""The one owner of memory: every output array and every scratch buffer of a kernel comes from here (ext/memory.pyx)."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ._memory import JUNK, empty, fill_with, lasting, release, state, usage

__all__ = ["empty", "forget_scratch", "lasting", "poisoned", "release", "usage"]


def forget_scratch() -> None:
    """Let go of the calling thread's scratch memory."""
    state.__dict__.clear()


def _poison(array: np.ndarray) -> None:
    if array.dtype == np.uint8:
        array.fill(JUNK)
    else:
        array.fill(np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).max)


@contextmanager
def poisoned() -> Iterator[None]:
    """For tests: fill outputs with NaN and scratch with junk, so that an element nobody wrote cannot pass.

    Scratch memory is then of the size asked for and no larger, so that AddressSanitizer sees what lies behind it.
    """
    before = fill_with(_poison)
    try:
        yield
    finally:
        fill_with(before)
