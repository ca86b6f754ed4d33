"""Losses of classifiers, on logits: one class of several, or yes and no."""

import math
from collections.abc import Sequence

import numpy as np

from ... import functional
from ...errors import DataError
from ...layer import Shape
from ...layers._checks import number
from ..data import first_index
from ._base import BuiltinLoss, check_count, check_like_outputs, shown, weight_list


class CrossEntropy(BuiltinLoss):
    """Softmax cross-entropy of logits: `c = mean_n (log sum_j e^(z_nj) - z_n,label)`; `dz = (softmax(z) - onehot) / N`.

    Logits `(N, classes)` with integer labels `(N,)` from 0 to classes - 1; or one label a pixel, logits
    `(N, classes, ...)` with labels `(N, ...)`, and the mean is over the pixels too. The largest logit is subtracted first, so
    nothing overflows (Goodfellow, Bengio and Courville, Deep Learning, 2016, section 4.1).

    With `label_smoothing` s from 0 to 1 a label counts 1 - s and every class s / classes more (Szegedy et al. 2016). With
    `class_weights`, a list with a weight `w` for each class, the mean is a weighted one. Both as in PyTorch, `p = softmax(z)`:

    `c = -sum_n ((1 - s) w_label log p_n,label + (s / classes) sum_j w_j log p_nj) / sum_n w_label`
    """

    name = "cross_entropy"

    def __init__(self, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None) -> None:
        self.label_smoothing = float(number(label_smoothing, "label_smoothing", "from 0 to 1", lambda v: 0 <= v <= 1))
        self.class_weights = None if class_weights is None else weight_list(class_weights, "class_weights")

    def check(self, targets: np.ndarray, output_shape: Shape) -> None:
        """Raise `DataError`, with the index, for labels that are not integers, of the wrong shape, or out of range."""
        classes = output_shape[0]
        check_count(self.class_weights, "class_weights", classes, "classes")
        rule = f"labels are integers from 0 to {classes - 1}"
        if targets.dtype.kind not in "iub":
            broken = targets != np.floor(targets) if targets.dtype.kind == "f" else np.ones(targets.shape, bool)
            index = first_index(broken) if broken.any() else (0,) * targets.ndim
            raise DataError(f"{rule}; got dtype {targets.dtype}, {targets[index]} at index {shown(index)}")
        expected = (len(targets), *output_shape[1:])
        if targets.shape != expected:
            hint = "; for one-hot rows, pass y.argmax(axis=1)" if targets.shape == (len(targets), *output_shape) else ""
            raise DataError(f"labels must have shape {expected}, one each; got {targets.shape}{hint}")
        if targets.min() < 0 or targets.max() >= classes:
            index = first_index((targets < 0) | (targets >= classes))
            raise DataError(f"{rule}; got {targets[index]} at index {shown(index)}")

    def __call__(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        smoothing, weights = self.label_smoothing, self.class_weights
        return functional.cross_entropy(outputs, targets, label_smoothing=smoothing, class_weights=weights)


class BCEWithLogits(BuiltinLoss):
    """Binary cross-entropy of logits z and targets t from 0 to 1, both `(N, ...)`, the mean over all of them.

    `c = mean (w t log(1 + e^-z) + (1 - t) log(1 + e^z))`; with `s(z) = 1 / (1 + e^-z)` and n values a sample
    `dz = ((1 - t) s(z) - w t s(-z)) / (n N)`.

    Targets are of the outputs' shape: one yes or no a sample, `(N, 1)`, a class, `(N, classes)`, or a pixel, `(N, 1, H, W)`.
    `pos_weight` w, 1 by default, weighs what is positive: a number, or a list with one for each channel (axis 1). Exponentials
    are of `-|z|` alone, so nothing overflows, and no difference of near-equal numbers is taken.
    """

    name = "binary_cross_entropy"

    def __init__(self, pos_weight: float | Sequence[float] | None = None) -> None:
        self.pos_weight: float | list[float] | None = None
        if isinstance(pos_weight, Sequence):
            self.pos_weight = weight_list(pos_weight, "pos_weight")
        elif pos_weight is not None:
            rule = "at least 0 and finite, or a list of such numbers"
            self.pos_weight = float(number(pos_weight, "pos_weight", rule, lambda w: 0 <= w < math.inf))

    def check(self, targets: np.ndarray, output_shape: Shape) -> None:
        """Raise `DataError`, with the index, for targets of another shape than the outputs', or not from 0 to 1."""
        if isinstance(self.pos_weight, list):
            check_count(self.pos_weight, "pos_weight", output_shape[0], "channels")
        check_like_outputs(targets, output_shape)
        broken = ~((targets >= 0) & (targets <= 1))
        if broken.any():
            index = first_index(broken)
            raise DataError(f"targets are numbers from 0 to 1; got {targets[index]} at index {shown(index)}")

    def __call__(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        weight = np.array(1 if self.pos_weight is None else self.pos_weight, outputs.dtype)
        targets = np.asarray(targets, outputs.dtype)
        positive, negative = weight.reshape(-1, *(1,) * (outputs.ndim - 2)) * targets, 1 - targets
        # One of the two exponentials is 1 and the other e^-|z|.
        below, above = np.minimum(outputs, 0), np.minimum(-outputs, 0)
        up, down = np.exp(below), np.exp(above)
        power = up * down
        log = np.log1p(power)
        value = positive * (log - below) + negative * (log - above)
        gradient = (negative * up - positive * down) / (1 + power)
        gradient /= gradient.size
        return float(value.mean(dtype=np.float64)), gradient
