"""How far two computations of one value may lie apart: the only source of tolerances in this package.

A sum of `length` products, each rounded, in any order, differs from the exact sum by about `sqrt(length)` roundings
when the errors are independent (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 4.2). The factor
in front covers the largest of many outputs.
"""

from math import sqrt

import numpy as np
from numpy.typing import DTypeLike

_FACTOR = 16.0


def tolerance(dtype: DTypeLike, length: int = 1) -> float:
    """Largest error of a sum of `length` products in `dtype`, relative to the scale of the outputs."""
    return _FACTOR * float(np.finfo(np.dtype(dtype)).eps) * sqrt(max(int(length), 1))


def largest_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest expected magnitude (at least 1); NaN or a lone infinity is infinite.

    Infinities and NaN in the same places count as equal, as onnxruntime and NumPy both keep them.
    """
    if actual.shape != expected.shape:
        return float("inf")
    if actual.size == 0:
        return 0.0
    finite = np.isfinite(expected)
    same_rest = np.array_equal(np.asarray(actual)[~finite], np.asarray(expected)[~finite], equal_nan=True)
    if not same_rest or not np.isfinite(actual[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    wide = expected[finite].astype(np.float64)
    return float(np.abs(actual[finite].astype(np.float64) - wide).max() / max(1.0, np.abs(wide).max()))
