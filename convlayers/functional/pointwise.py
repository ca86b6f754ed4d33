"""Elementwise functions of arrays, and sums over rows."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import kernels
from ..errors import ShapeError
from ..kernels import memory, threads_over
from ._arrays import as_array, check_gradient


def relu(x: np.ndarray) -> np.ndarray:
    """`max(x, 0)`, any shape; NaN stays NaN."""
    x = as_array(x, "relu: x")
    y = memory.empty(x.shape, x.dtype)
    if y.size:
        kernels.compiled(x.dtype).relu_forward(x.reshape(-1), y.reshape(-1), threads_over(x.size))
    return y


def relu_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`dy` where the output `y` of `relu` was positive, else 0."""
    y = as_array(y, "relu: y")
    dy = check_gradient(dy, y.shape, "relu", y.dtype)
    dx = memory.empty(y.shape, y.dtype)
    if y.size:
        kernels.compiled(y.dtype).relu_backward(dy.reshape(-1), y.reshape(-1), dx.reshape(-1), threads_over(y.size))
    return dx


def add(arrays: Sequence[np.ndarray], *, relu: bool = False) -> np.ndarray:
    """The sum of two or more arrays of one shape, added in order. `relu` gives `max(y, 0)`, in the same pass."""
    total = as_array(arrays[0], "add: input 0")
    y = memory.empty(total.shape, total.dtype)
    for number, array in enumerate(arrays[1:], 1):
        array = as_array(array, f"add: input {number}", dtype=y.dtype)
        if array.shape != y.shape:
            raise ShapeError(f"add: inputs must have one shape; got {y.shape} and {array.shape}")
        if y.size:
            last = number == len(arrays) - 1
            kernel = kernels.compiled(y.dtype).add
            kernel(total.reshape(-1), array.reshape(-1), y.reshape(-1), relu and last, threads_over(y.size))
        total = y
    return y


def add_to(y: np.ndarray, x: np.ndarray, *, relu: bool = False) -> np.ndarray:
    """y, with x of its shape and type added; `relu` gives `max(y, 0)`. A third less traffic than a new array."""
    if y.size:
        flat = y.reshape(-1)
        kernels.compiled(y.dtype).add(flat, x.reshape(-1), flat, relu, threads_over(y.size))
    return y


def add_gradient(total: np.ndarray, part: np.ndarray) -> None:
    """`total += part`, small arrays of shapes that need not be the same."""
    kernels.run(np.add, total, part, total)


def add_rows(rows: np.ndarray, total: np.ndarray) -> None:
    """The sums over the last axis but one, rounded once to the type of `total`."""
    np.copyto(total, rows.sum(axis=-2), casting="same_kind")


def add_up(x: np.ndarray, axes: tuple[int, ...], total: np.ndarray) -> None:
    """The sums over `axes`, which `total` has with size 1."""
    np.sum(x, axis=axes, keepdims=True, out=total)


def quietly(function: Callable[..., object], *args: Any) -> None:
    """`function(*args)` without NumPy's warnings: what is infinite or no number then tells of itself."""
    with np.errstate(all="ignore"):
        function(*args)


def column_sums(x: np.ndarray) -> np.ndarray:
    """The sums of a matrix over its rows, `(columns,)`."""
    x = as_array(x, "column_sums: x", 2)
    y = memory.empty(x.shape[1:], x.dtype)
    if y.size:
        kernels.compiled(x.dtype).column_sums(x, y)
    return y
