"""Activations, from their definitions.

`ACTIVATIONS` has the value and the slope of each, as functions of x and of the constants a and b (ext/activations.pxi).
"""

from collections.abc import Callable
from math import erf, erfc, pi, sqrt

import numpy as np

_Function = Callable[[np.ndarray, float, float], np.ndarray]
_CUBIC = 0.044715


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


def _soft_tanh(x: np.ndarray) -> np.ndarray:
    return np.tanh(np.logaddexp(0, x))


def _normal(x: np.ndarray) -> np.ndarray:
    """The standard normal distribution; erfc keeps the digits of its tail."""
    return np.vectorize(erfc, otypes=[np.float64])(-x / sqrt(2)) / 2


def _gelu_argument(x: np.ndarray) -> np.ndarray:
    return 2 * sqrt(2 / pi) * (x + _CUBIC * x**3)


def _gelu_tanh_slope(x: np.ndarray, a: float, b: float) -> np.ndarray:
    u = _gelu_argument(x)
    return _sigmoid(u) + x * _sigmoid(u) * _sigmoid(-u) * 2 * sqrt(2 / pi) * (1 + 3 * _CUBIC * x**2)


def _mish_slope(x: np.ndarray, a: float, b: float) -> np.ndarray:
    return _soft_tanh(x) + x * _sigmoid(x) / np.cosh(np.minimum(np.logaddexp(0, x), 300)) ** 2


ACTIVATIONS: dict[str, tuple[_Function, _Function]] = {
    "celu": (
        lambda x, a, b: np.where(x > 0, x, a * np.expm1(np.minimum(x, 0) / a)),
        lambda x, a, b: np.where(x > 0, 1.0, np.exp(np.minimum(x, 0) / a)),
    ),
    "clip": (lambda x, a, b: np.clip(x, a, b), lambda x, a, b: np.where((x <= a) | (x >= b), 0.0, 1.0)),
    "elu": (
        lambda x, a, b: b * np.where(x > 0, x, a * np.expm1(np.minimum(x, 0))),
        lambda x, a, b: b * np.where(x > 0, 1.0, a * np.exp(np.minimum(x, 0))),
    ),
    "erf": (
        lambda x, a, b: np.vectorize(erf, otypes=[np.float64])(x),
        lambda x, a, b: 2 / sqrt(pi) * np.exp(-(x**2)),
    ),
    "gelu": (
        lambda x, a, b: x * _normal(x),
        lambda x, a, b: _normal(x) + x * np.exp(-(x**2) / 2) / sqrt(2 * pi),
    ),
    "gelu_tanh": (lambda x, a, b: x * _sigmoid(_gelu_argument(x)), _gelu_tanh_slope),
    "hard_sigmoid": (
        lambda x, a, b: np.clip((x + 3) / 6, 0, 1),
        lambda x, a, b: np.where(np.abs(x) < 3, 1 / 6, 0.0),
    ),
    "hard_swish": (
        lambda x, a, b: x * np.clip((x + 3) / 6, 0, 1),
        lambda x, a, b: np.where(x <= -3, 0.0, np.where(x < 3, x / 3 + 0.5, 1.0)),
    ),
    "leaky_relu": (lambda x, a, b: np.where(x > 0, x, a * x), lambda x, a, b: np.where(x > 0, 1.0, a)),
    "mish": (lambda x, a, b: x * _soft_tanh(x), _mish_slope),
    "sigmoid": (lambda x, a, b: _sigmoid(x), lambda x, a, b: _sigmoid(x) * _sigmoid(-x)),
    "silu": (
        lambda x, a, b: x * _sigmoid(x),
        lambda x, a, b: _sigmoid(x) + x * _sigmoid(x) * _sigmoid(-x),
    ),
    "softplus": (
        lambda x, a, b: np.where(a * x > b, x, np.logaddexp(0, a * x) / a),
        lambda x, a, b: np.where(a * x > b, 1.0, _sigmoid(a * x)),
    ),
    "tanh": (lambda x, a, b: np.tanh(x), lambda x, a, b: 1 / np.cosh(np.clip(x, -300, 300)) ** 2),
}


def activation(name: str, x: np.ndarray, a: float = 0.0, b: float = 0.0) -> np.ndarray:
    """The value of the activation `name`."""
    return ACTIVATIONS[name][0](x.astype(np.float64), a, b)


def activation_backward(name: str, dy: np.ndarray, x: np.ndarray, a: float = 0.0, b: float = 0.0) -> np.ndarray:
    """`dy` times the slope."""
    return dy * ACTIVATIONS[name][1](x.astype(np.float64), a, b)


def prelu(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`x` where x > 0, else `weight x`."""
    return np.where(x > 0, x, _slopes(x, weight) * x)


def prelu_backward(dy: np.ndarray, x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(dx, dw)`."""
    products = np.where(x > 0, 0.0, dy.astype(np.float64) * x).reshape(*x.shape[:2], -1).sum(axis=(0, 2))
    return np.where(x > 0, 1.0, _slopes(x, weight)) * dy, products.reshape(len(weight), -1).sum(axis=1)


def _slopes(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return weight.astype(np.float64).reshape(-1, *(1,) * (x.ndim - 2))


def softmax(x: np.ndarray, axis: int, *, log: bool = False) -> np.ndarray:
    """`e^(x_i - max x) / sum_j e^(x_j - max x)` along an axis, or its logarithm."""
    wide = x.astype(np.float64)
    wide = wide - wide.max(axis=axis, keepdims=True)
    total = np.exp(wide).sum(axis=axis, keepdims=True)
    return wide - np.log(total) if log else np.exp(wide) / total


def softmax_backward(dy: np.ndarray, x: np.ndarray, axis: int, *, log: bool = False) -> np.ndarray:
    """`y (dy - sum_j dy_j y_j)`; of the logarithm, `dy - y sum_j dy_j`, y the softmax in both."""
    y, wide = softmax(x, axis), dy.astype(np.float64)
    if log:
        return wide - y * wide.sum(axis=axis, keepdims=True)
    return y * (wide - (wide * y).sum(axis=axis, keepdims=True))
