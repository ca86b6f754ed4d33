"""Losses: how far a batch of outputs lies from its targets, and the gradient.

A loss is called as `loss(outputs, targets) -> (value, gradient)`: outputs `(N, ...)` from the model, targets the same N
samples of y; the value is the mean over the batch, a float, and the gradient has the shape and dtype of the outputs. Any
such function can be passed to the trainer. A loss may also have `check(targets, output_shape)`, which raises `DataError` for
targets that it cannot use: it is called once, on all of y, before training starts. With a model of several outputs, a loss
of your own gets a list of outputs and returns a list of gradients.

Those here are passed by name, `"cross_entropy"`, `"binary_cross_entropy"`, `"mse"`, `"l1"`, `"huber"`, or with options as
objects: `Trainer(model, convlayers.losses.CrossEntropy(label_smoothing=0.1))`. A checkpoint keeps which one, and its options.
"""

from ...errors import ConfigError
from ._base import BuiltinLoss, Loss
from .classification import BCEWithLogits, CrossEntropy
from .regression import L1, Huber, MeanSquaredError

__all__ = ["L1", "LOSSES", "BCEWithLogits", "BuiltinLoss", "CrossEntropy", "Huber", "Loss", "MeanSquaredError", "get_loss"]

_DEFAULTS: tuple[BuiltinLoss, ...] = (CrossEntropy(), BCEWithLogits(), MeanSquaredError(), L1(), Huber())
LOSSES = {loss.name: loss for loss in _DEFAULTS}


def get_loss(loss: str | Loss) -> Loss:
    """A loss by its name, with its defaults, or the caller's own. Raises `ConfigError`."""
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    if isinstance(loss, str | type) or not callable(loss):
        hint = f"; call it: {loss.__name__}()" if isinstance(loss, type) else ""
        raise ConfigError(f"loss is one of {', '.join(LOSSES)}, or a function of outputs and targets; got {loss!r}{hint}")
    return loss
