"""Batch normalization."""

import numpy as np


def channels(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One value a channel, shaped to meet x `(N, C, ...)`."""
    return values.astype(np.float64).reshape(-1, *(1,) * (x.ndim - 2))


def channel_sums(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64).sum(axis=(0, *range(2, x.ndim)))


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each channel, `(C,)` each."""
    wide, axes = x.astype(np.float64), (0, *range(2, x.ndim))
    return wide.mean(axis=axes), wide.var(axis=axes)


def batch_norm_forward(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, var: np.ndarray, eps: float
) -> np.ndarray:
    """`(x - mean) / sqrt(var + eps) weight + bias`, channel by channel."""
    deviation = (x - channels(mean, x)) / np.sqrt(channels(var, x) + eps)
    return deviation * channels(weight, x) + channels(bias, x)


def batch_norm_backward(
    dy: np.ndarray, x: np.ndarray, weight: np.ndarray, mean: np.ndarray, var: np.ndarray, eps: float, training: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(dx, dw, db)`; in training mean and variance are those of x and change with it, else they are constants."""
    root = np.sqrt(channels(var, x) + eps)
    deviation = (x - channels(mean, x)) / root
    dw, db = channel_sums(dy * deviation), channel_sums(dy)
    through = dy.astype(np.float64)
    if training:
        through = dy - (channels(db, x) + deviation * channels(dw, x)) * (x.shape[1] / x.size)
    return through * channels(weight, x) / root, dw, db
