"""Counter-based randomness: a draw depends on what it is for, never on how many draws came before.

Every generator is NumPy's Philox (Salmon et al. 2011), keyed by a seed, a purpose and counters such as the epoch or the
step. Stopping and resuming a run, or adding a layer that draws, leaves every other draw as it was.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

# (seed, step, place in the network): set by the model around a training pass, read by layers such as Dropout.
_place: ContextVar[tuple[int, int, int]] = ContextVar("convlayers_random_place", default=(0, 0, 0))


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """The generator for one purpose: the same arguments give the same numbers on every machine."""
    key = ":".join([str(int(seed)), purpose, *(str(int(c)) for c in counters)])
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], np.uint64)))


@contextmanager
def training_step(seed: int, step: int) -> Iterator[None]:
    """Within this block, layers draw for training step `step` of a run seeded with `seed`."""
    token = _place.set((seed, step, 0))
    try:
        yield
    finally:
        _place.reset(token)


def at_node(node: int) -> None:
    """Say which place in the network draws next, so that two equal layers draw different numbers."""
    seed, step, _ = _place.get()
    _place.set((seed, step, node))


def layer_generator(purpose: str) -> np.random.Generator:
    """For a layer's `forward`: a generator that depends on the seed, the step, the layer's place and `purpose`."""
    seed, step, node = _place.get()
    return generator(seed, purpose, step, node)
