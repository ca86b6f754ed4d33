"""The door for data: what training can use passes as it is, a view where possible; the rest is named, with its index."""

from typing import Any

import numpy as np

from ..errors import ArrayTypeError, ConfigError, ConvlayersError, DataError, ShapeError, located
from ..layer import Shape
from ..model import Model
from ..model.graph import in_order
from ..shapes import features
from .metrics import name_of

# Values checked at a time: the check needs memory for these, not for the whole set.
_STRETCH = 1 << 18


def first_index(mask: np.ndarray) -> tuple[int, ...]:
    """The index of the first True in row order."""
    return tuple(int(i) for i in np.unravel_index(int(mask.argmax()), mask.shape))


def check_finite(array: np.ndarray, dtype: np.dtype, name: str) -> None:
    """Raise `DataError`, naming the sample, where a value is NaN, infinite, or too large for `dtype`."""
    if array.dtype.kind != "f":
        return
    rows = max(1, _STRETCH // max(1, features(array.shape[1:])))
    for start in range(0, len(array), rows):
        with np.errstate(over="ignore"):
            finite = np.isfinite(array[start : start + rows].astype(dtype, copy=False))
        if not finite.all():
            row, *position = first_index(~finite)
            value = array[(start + row, *position)]
            where = f", position {tuple(position)}" if position else ""
            why = f", more than {dtype} holds" if np.isfinite(value) else ""
            raise DataError(f"{name} must be finite; sample {start + row}{where} is {value}{why}")


def _array(value: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ArrayTypeError(f"{name} is not a rectangular array: {error}") from error
    if array.ndim == 0:
        raise DataError(f"{name} is an array with a batch axis in front; got {value!r}")
    return array


def _check_input(array: np.ndarray, shape: Shape, dtype: np.dtype, name: str) -> None:
    if array.dtype.kind not in "fiub":
        raise ArrayTypeError(f"{name} must hold real numbers; got dtype {array.dtype}")
    if array.shape[1:] != shape:
        raise ShapeError(f"{name} holds samples of shape {shape}, so (N, {str(shape)[1:]}; got {array.shape}")
    check_finite(array, dtype, name)


class Samples:
    """Inputs and targets that passed the door, handed out batch by batch in the parameters' dtype.

    The arrays stay as they are, whatever their dtype and byte order; a batch is a copy, converted after indexing.
    """

    def __init__(self, model: Model, x: Any, dtype: np.dtype) -> None:
        several = len(model.input_shapes) > 1
        rule = (
            f"x is a list of {len(model.input_names)} arrays, one for each input" if several else "x is an array for the input"
        )
        given = in_order(x, model.input_names, rule)
        names = [f"x[{i}]" for i in range(len(given))] if several else ["x"]
        self._inputs = [_array(value, name) for value, name in zip(given, names, strict=True)]
        self._dtype, self._several = dtype, several
        self._targets: list[np.ndarray] = []
        self._several_targets = False
        for array, shape, name in zip(self._inputs, model.input_shapes, names, strict=True):
            _check_input(array, shape, dtype, name)
            if len(array) != len(self):
                raise DataError(f"{name} has {len(array)} samples and {names[0]} has {len(self)}")

    def __len__(self) -> int:
        return len(self._inputs[0])

    def inputs(self, index: Any) -> Any:
        """The samples at `index`, a slice or an array of ints; a list for several inputs."""
        parts = [array[index] for array in self._inputs]
        parts = [part if part.dtype == self._dtype else part.astype(self._dtype) for part in parts]
        return parts if self._several else parts[0]

    def set_targets(self, y: Any, outputs: int) -> None:
        """Take `y`: an array, or for several outputs also a list with one for each of them."""
        self._several_targets = outputs > 1 and isinstance(y, list | tuple) and all(isinstance(t, np.ndarray) for t in y)
        if self._several_targets and len(y) != outputs:
            raise ArrayTypeError(f"y is an array, or a list of {outputs} arrays, one for each output; got {len(y)}")
        for number, value in enumerate(y if self._several_targets else [y]):
            name = f"y[{number}]" if self._several_targets else "y"
            targets = _array(value, name)
            if len(targets) != len(self):
                index = min(len(targets), len(self))
                raise DataError(f"x has {len(self)} samples and {name} has {len(targets)}; they part at index {index}")
            self._targets.append(targets)

    def batch_targets(self, index: Any) -> Any:
        """The targets of the samples at `index`, in their own dtype; a list where y is one."""
        parts = [targets[index] for targets in self._targets]
        return parts if self._several_targets else parts[0]


def labelled(model: Model, data: Any, dtype: np.dtype, judges: list[Any], place: str) -> Samples:
    """The pair `(x, y)` as `Samples`, checked also by the loss and the metrics in `judges`.

    Raises `DataError`, `ShapeError` or `ArrayTypeError`, with `place` in front.
    """
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise DataError(f"{place}: data is a pair (x, y); got {type(data).__name__}")
    try:
        samples = Samples(model, data[0], dtype)
        samples.set_targets(data[1], len(model.outputs))
        if not len(samples):
            raise DataError("there are no samples")
        for judge in judges:
            if hasattr(judge, "check"):
                judge.check(samples.batch_targets(slice(None)), _one_output(model, judge))
        return samples
    except ConvlayersError as error:
        raise located(error, place) from error


def _one_output(model: Model, judge: Any) -> Shape:
    if len(model.outputs) != 1:
        raise ConfigError(
            f"{name_of(judge)} takes one output and the model has {len(model.outputs)}; pass a function of your own"
        )
    return model.value_shapes[model.outputs[0]]
