"""What the losses share: their options as JSON values, and the check of targets that look like the outputs."""

import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ...errors import ConfigError, DataError
from ...layer import Shape
from ...layers._checks import number

Loss = Callable[[Any, Any], tuple[float, Any]]


class BuiltinLoss:
    """Base of the losses: options are JSON values, in attributes of the same names, so that a checkpoint can keep them."""

    name: ClassVar[str]

    def __init__(self) -> None:
        """No options, unless a loss has some."""

    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"

    def check(self, targets: np.ndarray, output_shape: Shape) -> None:
        """Raise `DataError`, with the index, for targets that the loss cannot use."""
        raise NotImplementedError(f"{type(self).__name__} has no check")

    def __call__(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        """The mean over the batch, and its gradient."""
        raise NotImplementedError(f"{type(self).__name__} cannot be called")


def check_like_outputs(targets: np.ndarray, output_shape: Shape) -> None:
    """Raise `DataError` for targets that are not real numbers, or of another shape than the outputs'."""
    if targets.dtype.kind not in "fiub":
        raise DataError(f"targets are real numbers; got dtype {targets.dtype}")
    expected = (len(targets), *output_shape)
    if targets.shape != expected:
        hint = "; pass y[:, None]" if expected == (len(targets), 1, *targets.shape[1:]) else ""
        raise DataError(f"targets must have the outputs' shape {expected}; got {targets.shape}{hint}")


def weight_list(value: Any, name: str) -> list[float]:
    """`value` as a list of finite floats of at least 0, not all 0."""
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{name} is a list of numbers; got {value!r}")
    weights = [float(number(v, f"a value of {name}", "at least 0 and finite", lambda w: 0 <= w < math.inf)) for v in value]
    if not any(weights):
        raise ConfigError(f"{name} must have a value greater than 0; got {value!r}")
    return weights


def check_count(weights: list[float] | None, name: str, channels: int, what: str) -> None:
    """Raise `ConfigError` unless there is one weight for each channel of the outputs."""
    if weights is not None and len(weights) != channels:
        raise ConfigError(f"{name} has {len(weights)} values and the outputs have {channels} {what}")


def shown(index: tuple[int, ...]) -> str:
    """An index for a message."""
    return str(index[0]) if len(index) == 1 else str(index)
