"""Passes over a model that were recorded, to be run again without the Python around their kernels (kernels/recording.py).

A recorded pass computes from arrays of its own to arrays of its own: what goes in is copied to them, what comes out from them.
Its memory is not shared, so a model keeps one recording of inference and one of a training step, made when the same shapes come
for the second time in a row, and none that needs much memory: Python's share of such a pass is small.
"""

import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .. import kernels
from ..kernels import memory
from ..kernels.recording import Recording
from ..layer import Layer

_MOST_REFUSED = 16  # keys of passes that cannot be recorded
_LEAST_PATIENCE, _MOST_PATIENCE = 2, 256  # passes of one kind in a row before one is recorded
_FEW_RUNS = 8
# Bytes that a recording may hold between passes. Inference gets less, since other models would use them in between. A batch of
# 64 of `mobilenet_small`, where a fiftieth of the time is Python, needs 37 MB, and 148 for a training step.
MOST_OF_INFERENCE, MOST_OF_TRAINING = 64 * 2**20, 256 * 2**20
_KINDS = "params", "grads", "buffers"


class Arrays:
    """The arrays of layers as they are now: a recording serves as long as they are the same."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        self._kinds = [(layer, name, getattr(layer, name)) for layer in layers for name in _KINDS if getattr(layer, name)]
        self._arrays = [(kind, key, array) for _, _, kind in self._kinds for key, array in kind.items()]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (array for _, _, array in self._arrays)

    def hold(self) -> bool:
        """Whether none was exchanged."""
        if [kind for layer, name, kind in self._kinds if getattr(layer, name) is not kind]:
            return False
        return not [key for kind, key, array in self._arrays if kind.get(key) is not array]


class Replay:
    """A recorded pass: where its inputs and outputs lie, and what it was recorded for."""

    def __init__(
        self, recording: Recording, arrays: Arrays, inputs: Iterable[np.ndarray], outputs: Iterable[np.ndarray]
    ) -> None:
        self.recording, self.arrays, self._settings = recording, arrays, kernels.settings()
        self._inputs: list[Any] = [recording.lasting(array) for array in inputs]
        self._outputs: list[Any] = [recording.lasting(array) for array in outputs]
        self._running = threading.Lock()
        self.runs = 0

    @property
    def complete(self) -> bool:
        """Whether all of it was written down."""
        return self.recording.complete

    def run(self, given: Sequence[Any]) -> list[np.ndarray] | None:
        """What comes out of `given`; None where the model, the machine or `given` are not as they were when it was recorded, or
        while another thread runs it."""
        for own, array in zip(self._inputs, given, strict=True):
            if type(array) is not np.ndarray or array.shape != own.shape or array.dtype is not own.dtype:
                return None
        same = self._settings == kernels.settings() and kernels.replays() and self.arrays.hold()
        if not same or not self._running.acquire(blocking=False):
            return None
        try:
            for own, array in zip(self._inputs, given, strict=True):
                np.copyto(own, array)
            self.recording.replay()
            self.runs += 1
            return [copied(own) for own in self._outputs]
        finally:
            self._running.release()


def copied(array: np.ndarray) -> np.ndarray:
    """A copy, in memory from the pool."""
    copy = memory.empty(array.shape, array.dtype)
    np.copyto(copy, array)
    return copy


class RecordedStep:
    """A recorded forward pass in training, what it leaves in its memory for `backward`, and that pass if it is recorded too.

    What it leaves is that of its latest pass: the next one waits until a tape was read, and overwrites it then.
    """

    def __init__(self, forward: Replay, caches: list[Any], fitted: list[Any]) -> None:
        self.forward, self._caches, self._fitted = forward, caches, fitted
        self.backward: dict[bool, Replay | None] = {}  # with the inputs' gradients or without; None for what is not complete
        self.passes = 0
        self._tape: weakref.ref[Any] | None = None

    def run(self, given: Sequence[Any]) -> list[np.ndarray] | None:
        """As `Replay.run`; None, too, while somebody may still read what the latest pass left."""
        tape = None if self._tape is None else self._tape()
        return self.forward.run(given) if tape is None or tape.read else None

    def follow(self, tape: Any) -> None:
        """`tape` becomes that of the latest pass."""
        self.passes += 1
        tape.caches, tape.fitted, tape.step, tape.number = self._caches, self._fitted, self, self.passes
        self._tape = weakref.ref(tape)


class Slot:
    """Which pass is recorded, of inference or of training, and which one is to be: none where layers do not allow it.

    Recording takes a few times as long as the pass. Where recordings are given up after a few runs, since shapes alternate or
    arrays are exchanged at every step, the next one waits for twice as many passes of its kind in a row.
    """

    def __init__(self, allowed: bool, most_bytes: int) -> None:
        self.recorded: Any = None  # a Replay, or a RecordedStep
        self._allowed, self._most_bytes = allowed, most_bytes
        self._replay: Replay | None = None
        self._key: Any = None
        self._last: Any = None
        self._in_a_row, self._patience = 0, _LEAST_PATIENCE
        self._refused: set[Any] = set()

    def run(self, given: Sequence[Any]) -> list[np.ndarray] | None:
        """What the recorded pass gives, if there is one for this."""
        outputs: list[np.ndarray] | None = None if self.recorded is None else self.recorded.run(given)
        if outputs is not None:
            self._last = None
        return outputs

    def wanted(self, inputs: Sequence[np.ndarray]) -> bool:
        """Whether to record this pass, which is not recorded, or not as the model is now."""
        key = tuple([(x.shape, x.dtype) for x in inputs]), kernels.settings()
        self._in_a_row = self._in_a_row + 1 if key == self._last else 1
        self._last = key
        if not (self._allowed and kernels.replays() and len(inputs[0])) or key in self._refused:
            return False
        known = self._replay is not None and key == self._key and self._replay.arrays.hold()
        return not known and self._in_a_row >= self._patience

    def keep(self, replay: Replay, recorded: Any) -> bool:
        """`recorded`, with `replay` as its forward pass, from now on; False if that is incomplete or too large: never again."""
        if not replay.complete or replay.recording.arena.nbytes > self._most_bytes:
            if len(self._refused) < _MOST_REFUSED:
                self._refused.add(self._last)
            return False
        if self._replay is not None:
            hasty = self._replay.runs < _FEW_RUNS
            self._patience = min(2 * self._patience, _MOST_PATIENCE) if hasty else _LEAST_PATIENCE
        self._key, self._replay, self.recorded = self._last, replay, recorded
        return True
