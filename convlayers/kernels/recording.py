"""Calls that compute, written down while a pass over a model runs, to be run again on the same arrays.

Between two kernels Python looks up parameters, makes arrays and asks whether shapes fit, and finds its own code and data cold,
since kernels fill the caches: a third of a small network's step. None of it differs from pass to pass where the shapes do not,
so it is done once (the idea of CUDA graphs, "stream capture"). A call keeps its arrays, whose values are those of the day: what
the pass before left there is overwritten in the same order as it was written.

While a thread records, `kernels.compiled` gives it kernels that are written down, and its arrays come from an arena. Whatever
computes by other means goes through `kernels.run`. An array that a call reads and that is neither the arena's, nor the model's,
nor a constant was made by something that is not written down: such a recording is not `complete`, and of no use.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from ._memory import use
from .arena import Arena


class _Thread(threading.local):
    recording: "Recording | None" = None


_thread = _Thread()


class Recording(AbstractContextManager["Recording"]):
    """What a thread computes within the block, of arrays of an `arena` that several recordings may share.

    `known` are arrays that live as long as the recording is used, with whatever values: parameters, gradients, buffers.
    """

    def __init__(self, known: Iterable[np.ndarray], arena: Arena | None = None) -> None:
        self.arena = Arena() if arena is None else arena
        self.complete = True
        self._known: dict[int, np.ndarray] = {}
        for array in known:
            self.add_known(array)
        self._calls: list[tuple[Callable, tuple]] = []
        self._before: tuple[Recording | None, Arena | None] = None, None

    def __enter__(self) -> "Recording":
        self._before = _thread.recording, use(self.arena)
        _thread.recording = self
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        _thread.recording, arena = self._before
        use(arena)

    def add_known(self, array: np.ndarray) -> None:
        """One that is found out about while the recording is made; and what it is a view of, as its views are."""
        owner: Any = array
        while type(owner) is np.ndarray:
            self._known[id(owner)] = owner
            owner = owner.base

    def write(self, function: Callable, args: tuple) -> None:
        """A call that was made."""
        self._calls.append((function, self._lasting(args)))

    def lasting(self, array: np.ndarray) -> np.ndarray | None:
        """An array of the arena in memory that stays when the array does not; None, and an end of completeness, for others."""
        found = self.arena.lasting(array)
        self.complete = self.complete and found is not None
        return found

    def _lasting(self, value: Any) -> Any:
        if isinstance(value, tuple | list):
            parts = tuple(map(self._lasting, value))
            return value._make(parts) if hasattr(value, "_make") else parts
        if type(value) is not np.ndarray:
            return value
        found = self.arena.lasting(value)
        if found is not None:
            return found
        owner = value if type(value.base) is not np.ndarray or id(value) in self._known else value.base
        self.complete = self.complete and id(owner) in self._known
        return value

    def replay(self) -> None:
        """Run the calls again."""
        for function, args in self._calls:
            function(*args)


class _Kernels:
    """A compiled module whose kernels are written down when they are called in a thread that records."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        return recorded(found) if callable(found) else found


def recorded(function: Callable) -> Callable:
    """`function`, each call of which is one of a recording, as a kernel's is; itself where nothing is recorded.

    What it does may follow from its arguments' values; what it calls is not written down by itself.
    """
    if _thread.recording is None:
        return function

    def call(*args: Any) -> Any:
        recording, _thread.recording = _thread.recording, None
        try:
            result = function(*args)
        finally:
            _thread.recording = recording
        if recording is not None:
            recording.write(function, args)
        return result

    return call


def kernels_of(module: ModuleType) -> ModuleType:
    """The module itself, unless this thread records."""
    return module if _thread.recording is None else _Kernels(module)  # type: ignore[return-value]


def run(function: Callable, *args: Any) -> Any:
    """`function(*args)`, which computes from arrays into arrays, as a part of what is recorded: `run(np.add, a, b, out)`."""
    return recorded(function)(*args)


def unrecordable() -> None:
    """What follows computes in a way that cannot be written down."""
    if _thread.recording is not None:
        _thread.recording.complete = False


def constant(array: np.ndarray) -> np.ndarray:
    """`array`, which never changes, as one that a recording may refer to."""
    if _thread.recording is not None:
        _thread.recording.add_known(array)
    return array
