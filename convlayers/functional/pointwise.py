"""Elementwise functions of arrays, and sums over rows."""

from collections.abc import Sequence

import numpy as np

from .. import kernels
from ..errors import ShapeError
from ..kernels import memory
from ._arrays import as_array, check_gradient, threads_for


def relu(x: np.ndarray) -> np.ndarray:
    """`max(x, 0)`, any shape; NaN stays NaN."""
    x = as_array(x, "relu: x")
    y = memory.empty(x.shape, x.dtype)
    if y.size:
        kernels.compiled(x.dtype).relu_forward(x.reshape(-1), y.reshape(-1), threads_for(x.size))
    return y


def relu_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`dy` where the output `y` of `relu` was positive, else 0."""
    y = as_array(y, "relu: y")
    dy = check_gradient(dy, y.shape, "relu", y.dtype)
    dx = memory.empty(y.shape, y.dtype)
    if y.size:
        kernels.compiled(y.dtype).relu_backward(dy.reshape(-1), y.reshape(-1), dx.reshape(-1), threads_for(y.size))
    return dx


def sigmoid(x: np.ndarray) -> np.ndarray:
    """`1 / (1 + e^-x)`, any shape; through tanh, which does not overflow."""
    x = as_array(x, "sigmoid: x")
    y = np.multiply(x, 0.5, out=memory.empty(x.shape, x.dtype))
    np.tanh(y, out=y)
    y *= 0.5
    y += 0.5
    return y


def sigmoid_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`dy y (1 - y)`, from the output `y` of `sigmoid`."""
    y = as_array(y, "sigmoid: y")
    dy = check_gradient(dy, y.shape, "sigmoid", y.dtype)
    dx = np.subtract(1, y, out=memory.empty(y.shape, y.dtype))
    dx *= y
    dx *= dy
    return dx


def tanh(x: np.ndarray) -> np.ndarray:
    """The hyperbolic tangent, any shape."""
    x = as_array(x, "tanh: x")
    return np.tanh(x, out=memory.empty(x.shape, x.dtype))


def tanh_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`dy (1 - y^2)`, from the output `y` of `tanh`."""
    y = as_array(y, "tanh: y")
    dy = check_gradient(dy, y.shape, "tanh", y.dtype)
    dx = np.multiply(y, y, out=memory.empty(y.shape, y.dtype))
    np.subtract(1, dx, out=dx)
    dx *= dy
    return dx


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """`e^(x_i - max x) / sum_j e^(x_j - max x)` along an axis."""
    x = as_array(x, "softmax: x")
    y = np.subtract(x, x.max(axis=axis, keepdims=True), out=memory.empty(x.shape, x.dtype))
    np.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y


def softmax_backward(dy: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    """`y (dy - sum_j dy_j y_j)`, from the output `y` of `softmax`."""
    y = as_array(y, "softmax: y")
    dy = check_gradient(dy, y.shape, "softmax", y.dtype)
    dx = np.multiply(dy, y, out=memory.empty(y.shape, y.dtype))
    np.subtract(dy, dx.sum(axis=axis, keepdims=True), out=dx)
    dx *= y
    return dx


def add(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of two or more arrays of one shape, added in order."""
    total = as_array(arrays[0], "add: input 0")
    y = memory.empty(total.shape, total.dtype)
    for number, array in enumerate(arrays[1:], 1):
        array = as_array(array, f"add: input {number}", dtype=y.dtype)
        if array.shape != y.shape:
            raise ShapeError(f"add: inputs must have one shape; got {y.shape} and {array.shape}")
        if y.size:
            kernels.compiled(y.dtype).add(total.reshape(-1), array.reshape(-1), y.reshape(-1), threads_for(y.size))
        total = y
    return y


def column_sums(x: np.ndarray) -> np.ndarray:
    """The sums of a matrix over its rows, `(columns,)`."""
    x = as_array(x, "column_sums: x", 2)
    y = memory.empty(x.shape[1:], x.dtype)
    if y.size:
        kernels.compiled(x.dtype).column_sums(x, y)
    return y
