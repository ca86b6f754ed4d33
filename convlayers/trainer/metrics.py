"""Metrics: what is reported beside the loss.

A metric is called as `metric(outputs, targets)` on a batch and returns the batch's mean, a float, or an array with one
value for each sample (or pixel), which the trainer averages. Its `__name__` or `name` is its key in the history. Like a
loss, it may have `check(targets, output_shape)`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from ..layer import Shape

Metric = Callable[[Any, Any], Any]


class Accuracy:
    """The share of samples (or pixels) whose largest output is at the label; targets are labels, or one-hot rows."""

    name = "accuracy"

    def check(self, targets: np.ndarray, output_shape: Shape) -> None:
        """Raise `DataError` for targets that name no class."""
        labels = targets.dtype.kind in "iub" and targets.shape[1:] == output_shape[1:]
        one_hot = targets.shape[1:] == output_shape and output_shape[0] > 1
        if not (labels or one_hot):
            raise DataError(
                f"accuracy needs integer labels or one-hot targets for outputs of shape {output_shape}; "
                f"got {targets.dtype} targets of shape {targets.shape[1:]}; leave it out of metrics"
            )

    def __call__(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        labels = targets.argmax(axis=1) if targets.ndim == outputs.ndim else targets
        return outputs.argmax(axis=1) == labels


class BinaryAccuracy:
    """The share of outputs on the target's side: logits above 0, which stand for more than 1/2, where targets are above 1/2."""

    name = "binary_accuracy"

    def check(self, targets: np.ndarray, output_shape: Shape) -> None:
        """Raise `DataError` for targets of another shape than the outputs'."""
        if targets.shape[1:] != output_shape:
            raise DataError(
                f"binary_accuracy needs targets of the outputs' shape {output_shape}; got {targets.shape[1:]}; "
                "leave it out of metrics"
            )

    def __call__(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return (outputs > 0) == (targets > 0.5)


class IntersectionOverUnion:
    """For segmentation: pixels in both prediction and target over pixels in either, of each image.

    With one output channel, that of the pixels whose logit is above 0 and whose target is above 1/2, and 1 where there are
    none of either. With several, the mean over the classes that the image has in its prediction or in its integer labels.
    """

    name = "iou"

    def check(self, targets: np.ndarray, output_shape: Shape) -> None:
        """Raise `DataError` for targets that do not say something of each pixel."""
        binary = output_shape[0] == 1 and targets.shape[1:] == output_shape
        labels = output_shape[0] > 1 and targets.dtype.kind in "iub" and targets.shape[1:] == output_shape[1:]
        if len(output_shape) < 2 or not (binary or labels):
            raise DataError(
                f"iou needs outputs (1, ...) with targets of the same shape, or (classes, ...) with one integer label a pixel; "
                f"got outputs {output_shape} and {targets.dtype} targets {targets.shape[1:]}; leave it out of metrics"
            )

    def __call__(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        if outputs.shape[1] == 1:
            found, wanted = outputs > 0, targets > 0.5
        else:
            classes = np.arange(outputs.shape[1]).reshape(-1, *(1,) * (outputs.ndim - 2))
            found, wanted = outputs.argmax(axis=1)[:, None] == classes, targets[:, None] == classes
        pixels = tuple(range(2, outputs.ndim))
        both, either = (np.count_nonzero(mask, axis=pixels) for mask in (found & wanted, found | wanted))
        present = np.count_nonzero(either, axis=1)
        shares = (both / np.maximum(either, 1)).sum(axis=1) / np.maximum(present, 1)
        return np.where(present > 0, shares, 1.0)


METRICS: dict[str, Metric] = {
    "accuracy": Accuracy(),
    "binary_accuracy": BinaryAccuracy(),
    "iou": IntersectionOverUnion(),
}


def name_of(function: Any) -> str:
    """A loss's or metric's key: its `name` or `__name__`, or its class's."""
    name = getattr(function, "name", None) or getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def get_metrics(metrics: Iterable[str | Metric]) -> dict[str, Metric]:
    """Metrics by their keys. Raises `ConfigError`."""
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        raise ConfigError(f'metrics is a list such as ["accuracy"]; got {metrics!r}')
    found: dict[str, Metric] = {}
    for metric in metrics:
        if isinstance(metric, str) and metric not in METRICS:
            raise ConfigError(f"a metric is one of {', '.join(METRICS)}, or a function of outputs and targets; got {metric!r}")
        function = METRICS[metric] if isinstance(metric, str) else metric
        if not callable(function):
            raise ConfigError(f"a metric is one of {', '.join(METRICS)}, or a function of outputs and targets; got {metric!r}")
        name = name_of(function)
        if name in found or name == "loss":
            raise ConfigError(f'two metrics have the name "{name}"')
        found[name] = function
    return found


def total(value: Any, samples: int) -> float:
    """A batch's metric, times its samples: exact for counts, so that the epoch's accuracy is hits divided by samples."""
    if isinstance(value, np.ndarray) and value.size:
        hits = np.count_nonzero(value) if value.dtype.kind == "b" else value.sum(dtype=np.float64)
        return float(hits) * samples / value.size
    return float(value) * samples
