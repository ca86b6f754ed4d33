"""Matrix products, elementwise functions, sums."""

from collections.abc import Sequence

import numpy as np


def gemm(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """`a @ b + bias`, the bias along the last axis."""
    product_ = a.astype(np.float64) @ b.astype(np.float64)
    return product_ if bias is None else product_ + bias.astype(np.float64)


def relu_forward(x: np.ndarray) -> np.ndarray:
    """`max(x, 0)`; NaN stays NaN."""
    return np.maximum(x.astype(np.float64), 0.0)


def relu_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`dy` where the output was positive, else 0."""
    return np.where(y > 0, dy.astype(np.float64), 0.0)


def add(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of arrays of one shape."""
    return np.sum([a.astype(np.float64) for a in arrays], axis=0)


def column_sums(x: np.ndarray) -> np.ndarray:
    """The sums over the rows."""
    return x.astype(np.float64).sum(axis=0)
