"""What recorded passes are made of: memory that is handed on and kept, and calls that are written down."""

import numpy as np
from convlayers.kernels._memory import use

from convlayers import kernels
from convlayers.kernels import memory
from convlayers.kernels.arena import Arena
from convlayers.kernels.recording import Recording
from convlayers.testing.machine import assert_same


def address(array):
    return array.__array_interface__["data"][0]


def test_an_arena_hands_memory_on_and_keeps_it():
    arena = Arena()
    before = use(arena)
    try:
        first = memory.empty((5, 7), np.dtype(np.float32))
        first[...] = np.arange(35).reshape(5, 7)
        part, where = arena.lasting(first[1:, ::2]), address(first)
        assert_same([part], [first[1:, ::2]], "a view of a view")
        other = memory.empty((5, 7), np.dtype(np.float32))
        assert address(other) != where
        del first
        second = memory.empty((35,), np.dtype(np.float32))
        assert address(second) == where
        second.fill(3)
        np.testing.assert_array_equal(part, np.full((4, 4), 3))
        assert address(memory.empty((2,), np.dtype(np.float32))) != where
    finally:
        assert use(before) is arena
    assert arena.lasting(np.zeros(3)) is None
    assert Arena().lasting(second) is None, "another arena's"
    assert memory.empty((3,), np.dtype(np.float32)).base is None


def test_a_recording_that_reads_what_nobody_wrote_down_is_not_complete():
    known, x = np.ones(4, np.float32), np.arange(4, dtype=np.float32)
    with Recording([known]) as recording:
        own = memory.empty((4,), np.dtype(np.float32))
        kernels.run(np.copyto, own, kernels.constant(x))
        kernels.run(np.add, own, known[::-1], own)
    assert recording.complete
    own.fill(0)
    known.fill(5)
    recording.replay()
    np.testing.assert_array_equal(own, x + 5)
    with Recording([known]) as recording:
        kernels.run(np.add, own, np.ones(4, np.float32), known)
    assert not recording.complete
    with Recording([known]) as recording:
        kernels.unrecordable()
    assert not recording.complete
