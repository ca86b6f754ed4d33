"""Losses."""

import numpy as np


def cross_entropy(z: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """`mean(log sum_j e^z_j - z_label)` over logits `(N, classes, ...)`; `dz = (softmax(z) - onehot) / labels.size`."""
    wide = z.astype(np.float64)
    wide = wide - wide.max(axis=1, keepdims=True)
    powers = np.exp(wide)
    total = powers.sum(axis=1, keepdims=True)
    chosen = np.expand_dims(labels, 1)
    value = (np.log(total) - np.take_along_axis(wide, chosen, axis=1)).mean()
    onehot = np.arange(z.shape[1]).reshape(-1, *(1,) * (z.ndim - 2)) == chosen
    return float(value), (powers / total - onehot) / labels.size
