"""How far two computations of one value may lie apart: the only source of tolerances in this package.

A sum of `length` products, each rounded, in any order, differs from the exact sum by about `sqrt(length)` roundings
when the errors are independent (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 4.2). The factor
in front covers the largest of many outputs.
"""

from math import log2, sqrt

import numpy as np
from numpy.typing import DTypeLike

_FACTOR = 16.0


def tolerance(dtype: DTypeLike, length: int = 1) -> float:
    """Largest error of a sum of `length` products in `dtype`, relative to the scale of the outputs."""
    return _FACTOR * float(np.finfo(np.dtype(dtype)).eps) * sqrt(max(int(length), 1))


def fourier_tolerance(dtype: DTypeLike, length: int, pixels: int) -> float:
    """Largest error of a sum of `length` circular convolutions over a grid of `pixels`, computed by Fourier transforms.

    A transform's error is `sqrt(log2(pixels))` roundings of its 2-norm (Higham, 2002, section 24.1), spread evenly over the
    grid, however uneven the image is: so the error is relative to `sqrt(sum |x|^2 |w|^2 / pixels)` with the 2-norms of the
    convolved pairs, and not to the values of a single sum.
    """
    return tolerance(dtype, length + int(2 * log2(pixels)))


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
