"""Losses as functions of arrays."""

import numpy as np

from .. import kernels
from ..errors import DataError, ShapeError
from ..kernels import memory
from ._arrays import as_array, threads_for

_EXPONENTIAL_WORK = 32  # an exponential, with what goes with it, takes as long as about so many multiply-adds


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Softmax cross-entropy, the mean over all labels, and its gradient with respect to the logits.

    Logits `(N, classes, ...)`, labels `(N, ...)`, integers from 0 to classes - 1, else `DataError`. The value is summed in
    float64 and is NaN where there are no labels.
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
    kernel, threads = kernels.compiled(logits.dtype).cross_entropy, threads_for(_EXPONENTIAL_WORK * logits.size)
    try:
        value = kernel(logits.reshape(shape), labels.reshape(images, pixels), gradient.reshape(shape), threads)
    except IndexError as error:
        raise DataError(f"cross_entropy: {error}") from None
    return value, gradient
