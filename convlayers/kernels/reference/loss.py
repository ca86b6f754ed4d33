"""Losses."""

import numpy as np


def cross_entropy(
    z: np.ndarray, labels: np.ndarray, smoothing: float = 0.0, class_weights: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """`-sum q log softmax(z) / sum w_label` over logits `(N, classes, ...)`; `dz = (softmax(z) sum_j q_j - q) / sum w_label`.

    `q = w ((1 - smoothing) onehot + smoothing / classes)`; without smoothing and weights it is `onehot`.
    """
    wide = z.astype(np.float64)
    wide = wide - wide.max(axis=1, keepdims=True)
    log_p = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    column = (-1, *(1,) * (z.ndim - 2))
    onehot = np.arange(z.shape[1]).reshape(column) == np.expand_dims(labels, 1)
    w = np.ones(z.shape[1]) if class_weights is None else np.asarray(class_weights, np.float64)
    q = w.reshape(column) * ((1 - smoothing) * onehot + smoothing / z.shape[1])
    value, total = -(q * log_p).sum(), w[labels].sum()
    return float(value / total), (np.exp(log_p) * q.sum(axis=1, keepdims=True) - q) / total
