"""Losses: how far a batch of outputs lies from its targets, and the gradient.

A loss is called as `loss(outputs, targets) -> (value, gradient)`: outputs `(N, ...)` from the model, targets the same N
samples of y; the value is the mean over the batch, a float, and the gradient has the shape and dtype of the outputs. Any
such function can be passed to the trainer. A loss may also have `check(targets, output_shape)`, which raises `DataError` for
targets that it cannot use: it is called once, on all of y, before training starts. With a model of several outputs, a loss
of your own gets a list of outputs and returns a list of gradients.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import functional
from ..errors import ConfigError, DataError
from ..layer import Shape
from .data import check_finite, first_index

Loss = Callable[[Any, Any], tuple[float, Any]]


class CrossEntropy:
    """Softmax cross-entropy of logits: `c = mean_n (log sum_j e^(z_nj) - z_n,label)`; `dz = (softmax(z) - onehot) / N`.

    Logits `(N, classes)` with integer labels `(N,)` from 0 to classes - 1; or one label a pixel, logits
    `(N, classes, ...)` with labels `(N, ...)`, and the mean is over the pixels too. The largest logit is subtracted first, so
    nothing overflows (Goodfellow, Bengio and Courville, Deep Learning, 2016, section 4.1).
    """

    name = "cross_entropy"

    def check(self, targets: np.ndarray, output_shape: Shape) -> None:
        """Raise `DataError`, with the index, for labels that are not integers, of the wrong shape, or out of range."""
        classes = output_shape[0]
        rule = f"labels are integers from 0 to {classes - 1}"
        if targets.dtype.kind not in "iub":
            broken = targets != np.floor(targets) if targets.dtype.kind == "f" else np.ones(targets.shape, bool)
            index = first_index(broken) if broken.any() else (0,) * targets.ndim
            raise DataError(f"{rule}; got dtype {targets.dtype}, {targets[index]} at index {_shown(index)}")
        expected = (len(targets), *output_shape[1:])
        if targets.shape != expected:
            hint = "; for one-hot rows, pass y.argmax(axis=1)" if targets.shape == (len(targets), *output_shape) else ""
            raise DataError(f"labels must have shape {expected}, one each; got {targets.shape}{hint}")
        if targets.min() < 0 or targets.max() >= classes:
            index = first_index((targets < 0) | (targets >= classes))
            raise DataError(f"{rule}; got {targets[index]} at index {_shown(index)}")

    def __call__(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        return functional.cross_entropy(outputs, targets)


class MeanSquaredError:
    """`c = mean over the batch of ||a - y||^2 / n` for a sample of n outputs; `da = (2 / (n N)) (a - y)`.

    Outputs and targets `(N, ...)` of one shape. The value is summed in float64.
    """

    name = "mse"

    def check(self, targets: np.ndarray, output_shape: Shape) -> None:
        """Raise `DataError` for targets of another shape than the outputs', or not finite."""
        if targets.dtype.kind not in "fiub":
            raise DataError(f"targets are real numbers; got dtype {targets.dtype}")
        expected = (len(targets), *output_shape)
        if targets.shape != expected:
            raise DataError(f"targets must have the outputs' shape {expected}; got {targets.shape}")
        check_finite(targets, np.dtype(np.float32), "y")

    def __call__(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        gradient = outputs - np.asarray(targets, outputs.dtype)
        value = np.square(gradient, dtype=np.float64).mean()
        gradient *= 2 / gradient.size
        return float(value), gradient


LOSSES: dict[str, Loss] = {loss.name: loss for loss in (CrossEntropy(), MeanSquaredError())}  # type: ignore[misc, attr-defined]


def _shown(index: tuple[int, ...]) -> str:
    return str(index[0]) if len(index) == 1 else str(index)


def get_loss(loss: str | Loss) -> Loss:
    """A loss by its name, or the caller's own. Raises `ConfigError`."""
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ConfigError(f"loss is one of {', '.join(LOSSES)}, or a function of outputs and targets; got {loss!r}")
        return LOSSES[loss]
    if not callable(loss) or isinstance(loss, type):
        raise ConfigError(f"loss is one of {', '.join(LOSSES)}, or a function of outputs and targets; got {loss!r}")
    return loss
