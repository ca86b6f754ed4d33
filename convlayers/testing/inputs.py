"""Inputs at which a layer can be differentiated."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

LIMIT = 2.0


def spread(shape: Sequence[int], rng: np.random.Generator, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Evenly spaced values of (-2, 2) in random order: no two are equal and none is 0, however many there are.

    ReLU bends at 0 and a maximum where two values meet; here each value is at least half a `spacing` away from both.
    """
    size = int(np.prod(shape))
    even = size + size % 2  # an odd number of values would have one in the middle, at 0
    values = (np.arange(even) + 0.5) * spacing(size) - LIMIT
    return rng.permutation(values)[:size].reshape(tuple(shape)).astype(dtype)


def spacing(size: int) -> float:
    """The distance between neighbouring values of `spread`."""
    return 2 * LIMIT / max(size + size % 2, 2)
