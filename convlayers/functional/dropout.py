"""The random factors of dropout."""

import numpy as np

from ..kernels import memory

_FLOAT32 = np.dtype(np.float32)


def dropout_factors(shape: tuple[int, ...], p: float, rng: np.random.Generator, dtype: np.dtype) -> np.ndarray:
    """An array of `shape` whose elements are 0 with probability `p`, else `1 / (1 - p)`; each takes one float32 of `rng`."""
    factors = memory.empty(shape, dtype)
    fill_dropout_factors(factors, p, rng)
    return factors


def fill_dropout_factors(factors: np.ndarray, p: float, rng: np.random.Generator) -> None:
    """The same into an array that is there."""
    draws = factors if factors.dtype == _FLOAT32 else memory.empty(factors.shape, _FLOAT32)
    np.greater_equal(rng.random(dtype=np.float32, out=draws), p, out=factors)
    factors *= factors.dtype.type(1 / (1 - p))
