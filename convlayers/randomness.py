"""Counter-based randomness: a draw depends on what it is for, never on how many draws came before.

Every generator is NumPy's Philox (Salmon et al. 2011), keyed by a seed, a purpose and counters such as the epoch or the
step. Stopping and resuming a run, or adding a layer that draws, leaves every other draw as it was.
"""

import hashlib
from contextlib import AbstractContextManager
from contextvars import ContextVar
from math import prod
from typing import Any

import numpy as np

from .errors import FileFormatError


class Place:
    """Where in a run a layer draws: set by the model around a training pass, read by layers such as Dropout."""

    __slots__ = ("node", "seed", "step")

    def __init__(self, seed: int, step: int) -> None:
        self.seed, self.step, self.node = seed, step, 0


_place: ContextVar[Place] = ContextVar("convlayers_random_place")


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """The generator for one purpose: the same arguments give the same numbers on every machine."""
    key = ":".join([str(int(seed)), purpose, *(str(int(c)) for c in counters)])
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], np.uint64)))


def training_step(seed: int, step: int) -> AbstractContextManager[Place]:
    """Within this block, layers draw for training step `step` of a run seeded with `seed`.

    The attribute `node` of what it gives says which place in the network draws next: two equal layers draw different numbers.
    """
    return _Step(seed, step)


class _Step(AbstractContextManager[Place]):
    __slots__ = ("_place", "_token")

    def __init__(self, seed: int, step: int) -> None:
        self._place = Place(seed, step)

    def __enter__(self) -> Place:
        self._token = _place.set(self._place)
        return self._place

    def __exit__(self, *error: object) -> None:
        _place.reset(self._token)


def layer_node() -> int:
    """Which place in the network draws next."""
    return _place.get(Place(0, 0)).node


def layer_generator(purpose: str, node: int | None = None) -> np.random.Generator:
    """For a layer's `forward`: a generator that depends on the seed, the step, the layer's place and `purpose`.

    A pass that is run again tells the `node` that it had (`layer_node`); else it is the one that draws next.
    """
    place = _place.get(Place(0, 0))
    return generator(place.seed, purpose, place.step, place.node if node is None else node)


class NoDraws(np.random.Generator):
    """For building a layer whose weights are not wanted: only its shapes are, or the weights come from a file.

    Gives zeros. With a `limit`, asking for more values than that in all is a `FileFormatError`, before memory is taken.
    """

    def __init__(self, limit: int | None = None) -> None:
        super().__init__(np.random.Philox(0))
        self._left = limit

    def zeros(self, size: Any, dtype: Any = np.float64) -> np.ndarray:
        """What every draw gives."""
        shape = (size,) if isinstance(size, int) else tuple(size or ())
        if self._left is not None:
            self._left -= prod(shape)
            if self._left < 0:
                raise FileFormatError(f"the configuration asks for weights of shape {shape}, more than the file holds")
        return np.zeros(shape, dtype)

    def random(self, size=None, dtype=np.float64, out=None):  # type: ignore[no-untyped-def]
        return self.zeros(size, dtype)

    def standard_normal(self, size=None, dtype=np.float64, out=None):  # type: ignore[no-untyped-def]
        return self.zeros(size, dtype)

    def normal(self, loc=0.0, scale=1.0, size=None):  # type: ignore[no-untyped-def]
        return self.zeros(size)

    def uniform(self, low=0.0, high=1.0, size=None):  # type: ignore[no-untyped-def]
        return self.zeros(size)
