"""Losses of numbers: functions of the difference between outputs and targets of one shape, averaged over all of them.

Values are summed in float64.
"""

import math

import numpy as np

from ...layer import Shape
from ...layers._checks import number
from ..data import check_finite
from ._base import BuiltinLoss, check_like_outputs


class _Difference(BuiltinLoss):
    """Base of the losses: `c = mean f(a - y)` over all values; `da = f'(a - y) / (n N)` for a sample of n outputs."""

    def check(self, targets: np.ndarray, output_shape: Shape) -> None:
        """Raise `DataError` for targets of another shape than the outputs', or not finite."""
        check_like_outputs(targets, output_shape)
        check_finite(targets, np.dtype(np.float32), "y")


class MeanSquaredError(_Difference):
    """`c = mean over the batch of ||a - y||^2 / n` for a sample of n outputs; `da = (2 / (n N)) (a - y)`."""

    name = "mse"

    def __call__(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        gradient = outputs - np.asarray(targets, outputs.dtype)
        value = np.square(gradient, dtype=np.float64).mean()
        gradient *= 2 / gradient.size
        return float(value), gradient


class L1(_Difference):
    """`c = mean |a - y|`; `da = sign(a - y) / (n N)`, 0 where they are equal."""

    name = "l1"

    def __call__(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        difference = outputs - np.asarray(targets, outputs.dtype)
        value = np.abs(difference).mean(dtype=np.float64)
        gradient = np.sign(difference, out=difference)
        gradient /= gradient.size
        return float(value), gradient


class Huber(_Difference):
    """`c = mean h(a - y)` with `h(d) = d^2 / 2` up to `|d| = delta` and `delta (|d| - delta / 2)` beyond (Huber 1964).

    `da = clip(a - y, -delta, delta) / (n N)`: an outlier pulls no harder than `delta`.
    """

    name = "huber"

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = float(number(delta, "delta", "greater than 0 and finite", lambda v: 0 < v < math.inf))

    def __call__(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        difference = outputs - np.asarray(targets, outputs.dtype)
        gradient = np.clip(difference, -self.delta, self.delta)
        # d^2 / 2 and delta (|d| - delta / 2) are both clip(d) (d - clip(d) / 2).
        difference -= gradient / 2
        value = np.multiply(gradient, difference, dtype=np.float64).mean()
        gradient /= gradient.size
        return float(value), gradient
