"""Group and layer normalization."""

import numpy as np

from .batchnorm import channel_sums, channels


def _normalized(x: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """`u = (x - mean) / root` along the last axis, and the root of the variance."""
    wide = x.astype(np.float64)
    root = np.sqrt(wide.var(axis=-1, keepdims=True) + eps)
    return (wide - wide.mean(axis=-1, keepdims=True)) / root, root


def _normalized_gradient(g: np.ndarray, u: np.ndarray, root: np.ndarray) -> np.ndarray:
    return (g - g.mean(axis=-1, keepdims=True) - u * (g * u).mean(axis=-1, keepdims=True)) / root


def group_norm_forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int, eps: float) -> np.ndarray:
    """`u weight + bias`, u the values of each of a sample's groups of channels, brought to mean 0 and variance 1."""
    u, _ = _normalized(x.reshape(len(x), groups, -1), eps)
    return u.reshape(x.shape) * channels(weight, x) + channels(bias, x)


def group_norm_backward(
    dy: np.ndarray, x: np.ndarray, weight: np.ndarray, groups: int, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(dx, dw, db)`."""
    u, root = _normalized(x.reshape(len(x), groups, -1), eps)
    dx = _normalized_gradient((dy * channels(weight, x)).reshape(u.shape), u, root)
    return dx.reshape(x.shape), channel_sums(dy * u.reshape(x.shape)), channel_sums(dy)


def layer_norm_forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, axis: int, eps: float) -> np.ndarray:
    """`u weight + bias`, u the values from `axis` on, brought to mean 0 and variance 1."""
    u, _ = _normalized(x.reshape(*x.shape[:axis], -1), eps)
    return u.reshape(x.shape) * weight.astype(np.float64) + bias.astype(np.float64)


def layer_norm_backward(
    dy: np.ndarray, x: np.ndarray, weight: np.ndarray, axis: int, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(dx, dw, db)`."""
    u, root = _normalized(x.reshape(*x.shape[:axis], -1), eps)
    dx = _normalized_gradient((dy * weight.astype(np.float64)).reshape(u.shape), u, root)
    front = tuple(range(axis))
    return dx.reshape(x.shape), (dy * u.reshape(x.shape)).sum(axis=front), dy.astype(np.float64).sum(axis=front)
