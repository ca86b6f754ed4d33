"""Elementwise functions of arrays."""

import numpy as np

from .. import kernels
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
