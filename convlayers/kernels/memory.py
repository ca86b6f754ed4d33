"""The one owner of memory: every output array and every scratch buffer of a kernel comes from here."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector
_JUNK = 0xA5
_state = threading.local()
_poison = False


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array for a kernel to fill; its contents are undefined, and NaN under `poisoned()`."""
    array = np.empty(shape, dtype)
    if _poison:
        array.fill(np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).max)
    return array


def scratch(nbytes: int, slot: int = 0) -> np.ndarray:
    """At least `nbytes` of aligned scratch memory, kept for the calling thread and handed out again at its next call.

    A kernel that needs two buffers at once takes them from two slots.
    """
    buffers = _state.__dict__
    buffer = buffers.get(slot)
    if buffer is None or buffer.size < nbytes:
        raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        buffer = buffers[slot] = raw[start : start + nbytes]
    if _poison:
        buffer.fill(_JUNK)
    return buffer


@contextmanager
def poisoned() -> Iterator[None]:
    """For tests: fill outputs with NaN and scratch with junk, so that an element nobody wrote cannot pass."""
    global _poison
    before, _poison = _poison, True
    try:
        yield
    finally:
        _poison = before
