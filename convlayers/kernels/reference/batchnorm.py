"""Batch normalization."""

import numpy as np


def _channels(values: np.ndarray) -> np.ndarray:
    """One value a channel, shaped to meet `(N, C, H, W)`."""
    return values.astype(np.float64)[:, None, None]


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each channel, `(C,)` each."""
    wide = x.astype(np.float64)
    return wide.mean(axis=(0, 2, 3)), wide.var(axis=(0, 2, 3))


def batch_norm_forward(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, var: np.ndarray, eps: float
) -> np.ndarray:
    """`(x - mean) / sqrt(var + eps) weight + bias`, channel by channel."""
    deviation = (x - _channels(mean)) / np.sqrt(_channels(var) + eps)
    return deviation * _channels(weight) + _channels(bias)


def batch_norm_backward(
    dy: np.ndarray, x: np.ndarray, weight: np.ndarray, mean: np.ndarray, var: np.ndarray, eps: float, training: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(dx, dw, db)`; in training mean and variance are those of x and change with it, else they are constants."""
    root = np.sqrt(_channels(var) + eps)
    deviation = (x - _channels(mean)) / root
    dw, db = (dy * deviation).sum(axis=(0, 2, 3)), dy.astype(np.float64).sum(axis=(0, 2, 3))
    through = dy.astype(np.float64)
    if training:
        through = dy - (_channels(db) + deviation * _channels(dw)) * (x.shape[1] / x.size)
    return through * _channels(weight) / root, dw, db
