"""Losses as functions of arrays."""

from collections.abc import Sequence

import numpy as np

from .. import kernels
from ..errors import DataError, ShapeError
from ..kernels import memory, threads_for
from ._arrays import as_array

_EXPONENTIAL_WORK = 32  # an exponential, with what goes with it, takes as long as about so many multiply-adds


def cross_entropy(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    """Softmax cross-entropy, the mean over all labels, and its gradient with respect to the logits.

    Logits `(N, classes, ...)`, labels `(N, ...)`, integers from 0 to classes - 1, else `DataError`. A label counts
    `1 - label_smoothing`, and every class `label_smoothing / classes` more; with `class_weights` `(classes,)` each class counts
    as much as its weight, and the mean is over the labels' weights: PyTorch's definitions. The value is summed in float64 and
    is NaN where there are no labels.
    """
    logits = as_array(logits, "cross_entropy: logits")
    labels = np.ascontiguousarray(labels, np.intp)
    if logits.ndim < 2 or labels.shape != logits.shape[:1] + logits.shape[2:]:
        raise ShapeError(f"cross_entropy: labels (N, ...) and logits (N, classes, ...); got {labels.shape} and {logits.shape}")
    gradient = memory.empty(logits.shape, logits.dtype)
    if not labels.size:
        return float("nan"), gradient
    images, classes = logits.shape[:2]
    pixels = labels.size // images
    shape = (images, classes, pixels)
    arrays = logits.reshape(shape), labels.reshape(images, pixels), gradient.reshape(shape)
    try:
        if label_smoothing or class_weights is not None:
            value = _soft_cross_entropy(*arrays, label_smoothing, class_weights)
        else:
            kernel, threads = kernels.compiled(logits.dtype).cross_entropy, threads_for(_EXPONENTIAL_WORK * logits.size)
            value = kernel(*arrays, threads)
    except IndexError as error:
        raise DataError(f"cross_entropy: {error}") from None
    return value, gradient


def _soft_cross_entropy(
    z: np.ndarray, labels: np.ndarray, dz: np.ndarray, smoothing: float, class_weights: Sequence[float] | np.ndarray | None
) -> float:
    """Fill dz and return the value: the kernel's contract, for targets that are weighted or not all in one class.

    A class counts `q = share`, the label's `hit` more: `share = smoothing / classes w` and `hit = (1 - smoothing) w_label`;
    `dz = (softmax(z) sum q - q) / sum w_label`.
    """
    classes = z.shape[1]
    if not 0 <= labels.min() <= labels.max() < classes:
        wrong = labels[(labels < 0) | (labels >= classes)]
        raise IndexError(f"labels are integers from 0 to {classes - 1}; got {wrong[0]}")
    weights = as_array(np.ones(classes) if class_weights is None else class_weights, "cross_entropy: class_weights", 1, z.dtype)
    if len(weights) != classes:
        raise ShapeError(f"cross_entropy: class_weights must have shape ({classes},), one a class; got {weights.shape}")
    at, total = labels[:, None], weights[labels].sum(dtype=np.float64)
    hit, share = z.dtype.type(1 - smoothing) * weights[at], z.dtype.type(smoothing / classes) * weights
    log_p = np.subtract(z, z.max(axis=1, keepdims=True), out=memory.empty(z.shape, z.dtype))
    np.exp(log_p, out=dz)
    powers = dz.sum(axis=1, keepdims=True)
    log_p -= np.log(powers)
    value = -np.sum(hit * np.take_along_axis(log_p, at, axis=1), dtype=np.float64)
    dz *= (hit + share.sum()) / powers
    np.put_along_axis(dz, at, np.take_along_axis(dz, at, axis=1) - hit, axis=1)
    if smoothing:
        value -= log_p.sum(axis=(0, 2), dtype=np.float64) @ share
        dz -= share[:, None]
    dz /= z.dtype.type(total)
    return float(value / total)
