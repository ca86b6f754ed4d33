"""The one owner of memory: every output array and every scratch buffer of a kernel comes from here."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from ._memory import Block, release, usage

__all__ = ["empty", "poisoned", "release", "scratch", "usage"]

_SMALL = 32 * 1024  # bytes below which NumPy's own allocation is faster than a block
_JUNK = 0xA5
_state = threading.local()
_poison = False


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array for a kernel to fill; its contents are undefined, and NaN under `poisoned()`."""
    nbytes = prod(shape) * dtype.itemsize
    array = np.empty(shape, dtype) if nbytes < _SMALL else np.ndarray(shape, dtype, Block(nbytes))
    if _poison:
        array.fill(np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).max)
    return array


def scratch(nbytes: int, slot: int = 0) -> np.ndarray:
    """At least `nbytes` of aligned scratch memory, kept for the calling thread and handed out again at its next call.

    A kernel that needs two buffers at once takes them from two slots.
    """
    buffers: dict[Any, np.ndarray] = _state.__dict__
    buffer = buffers.get(slot)
    if buffer is None or buffer.size < nbytes or _poison:
        buffer = buffers[slot] = np.frombuffer(Block(max(nbytes, 1)), np.uint8)
    if _poison:
        buffer[:nbytes].fill(_JUNK)
    return buffer


@contextmanager
def poisoned() -> Iterator[None]:
    """For tests: fill outputs with NaN and scratch with junk, so that an element nobody wrote cannot pass.

    Scratch memory is then of the size asked for and no larger, so that AddressSanitizer sees what lies behind it.
    """
    global _poison
    before, _poison = _poison, True
    try:
        yield
    finally:
        _poison = before
