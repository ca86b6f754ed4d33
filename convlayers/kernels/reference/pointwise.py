"""Matrix products, elementwise functions, sums."""

from collections.abc import Sequence
from functools import reduce

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


def multiply(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The product of arrays of one rank, an axis of size 1 repeated."""
    return reduce(np.multiply, [a.astype(np.float64) for a in arrays])


def multiply_backward(dy: np.ndarray, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """`dy` times the other arrays, summed over the axes that were repeated."""
    gradients = []
    for number, array in enumerate(arrays):
        product_ = multiply([dy, *arrays[:number], *arrays[number + 1 :]])
        repeated = tuple(axis for axis in range(dy.ndim) if array.shape[axis] == 1)
        gradients.append(product_.sum(axis=repeated, keepdims=True))
    return gradients
