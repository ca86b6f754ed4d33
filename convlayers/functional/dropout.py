"""The random factors of dropout."""

import numpy as np

from ..kernels import memory

_FLOAT32 = np.dtype(np.float32)


def dropout_factors(shape: tuple[int, ...], p: float, rng: np.random.Generator, dtype: np.dtype) -> np.ndarray:
    """An array of `shape` whose elements are 0 with probability `p`, else `1 / (1 - p)`; each takes one float32 of `rng`."""
    draws = rng.random(dtype=np.float32, out=memory.empty(shape, _FLOAT32))
    factors = np.greater_equal(draws, p, out=draws if dtype == _FLOAT32 else memory.empty(shape, dtype))
    factors *= dtype.type(1 / (1 - p))
    return factors
