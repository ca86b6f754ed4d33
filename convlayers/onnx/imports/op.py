"""What a handler sees of one operator: its attributes, its inputs, and a way to put layers in its place.

Whatever does not fit raises `RefusalError`, and the import goes on to find what else is in the way.
"""

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ...layer import Layer
from .values import PROBES, Constant, RefusalError, Tensor, Value

if TYPE_CHECKING:
    from .importer import Importer

# Stands for the batch size among the sizes of axes.
BATCH = -2
_KINDS: dict[type, tuple[type, ...]] = {int: (int,), float: (float, int), str: (str,), list: (list,)}


def plain(value: Any) -> Any:
    """An attribute's value in Python's types. A float is float32 in the file: the shortest decimal number for that."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        return float(str(np.float32(value))) if math.isfinite(value) else value
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


class Op:
    """One operator of the graph.

    `version` is the opset of its domain, `inputs` the values in their order, None for one that is absent, `outputs` how many
    outputs somebody reads. `batch` says whether axis 0 of a tensor is the batch, `file_batch` the size that the file gives
    it, None where it is open.
    """

    def __init__(self, importer: "Importer", node: Any, name: str, version: int, inputs: Sequence[Value | None]) -> None:
        from onnx import helper

        self._importer, self.name, self.version, self.inputs = importer, name, version, list(inputs)
        self.op_type, self.domain = node.op_type, node.domain
        # Old files name outputs that nobody reads, such as the mask of a dropout.
        self.outputs = max((i for i, output in enumerate(node.output, 1) if output in importer.needed), default=1)
        self.batch, self.file_batch = importer.batch, importer.file_batch
        if alien := [a for a in node.attribute if a.ref_attr_name]:
            name, other = alien[0].name, alien[0].ref_attr_name
            raise RefusalError(f"its attribute {name} is a function's attribute {other!r:.80}, and it stands in no function")
        self.attributes = {a.name: plain(helper.get_attribute_value(a)) for a in node.attribute}
        self._anchor = next((v for v in self.inputs if isinstance(v, Tensor)), None)
        constants = [v.name if isinstance(v, Constant) else None for v in self.inputs]
        settings = sorted(a.SerializeToString() for a in node.attribute)
        # Two operators with the same settings and the same weights are one layer at two places.
        shared = any(isinstance(v, Constant) and v.trained for v in self.inputs)
        self._signature = (node.domain, node.op_type, tuple(settings), tuple(constants)) if shared else None

    def refuse(self, reason: str, wanted: Tensor | None = None) -> NoReturn:
        """Say why this operator cannot be imported: `wanted` would have to be a constant."""
        raise RefusalError(reason, wanted)

    # Attributes

    def _attribute(self, name: str, kind: type, default: Any) -> Any:
        value = self.attributes.get(name, default)
        if value is not default and (not isinstance(value, _KINDS[kind]) or isinstance(value, bool)):
            self.refuse(f"attribute {name} must be of type {kind.__name__}; got {value!r:.80}")
        return value

    def get_int(self, name: str, default: Any = None) -> Any:
        """An integer attribute."""
        return self._attribute(name, int, default)

    def get_float(self, name: str, default: Any = None) -> Any:
        """A float attribute."""
        value = self._attribute(name, float, default)
        if value is not None and not math.isfinite(value):
            self.refuse(f"attribute {name} must be finite; got {value}")
        return value

    def get_string(self, name: str, default: Any = None) -> Any:
        """A text attribute."""
        return self._attribute(name, str, default)

    def get_ints(self, name: str, default: Any = None) -> Any:
        """A list of integers."""
        value = self._attribute(name, list, default)
        if value is not default and not all(isinstance(v, int) for v in value):
            self.refuse(f"attribute {name} must be a list of integers; got {value!r:.80}")
        return value

    # Inputs

    def value(self, number: int) -> Value | None:
        """Input `number`, None where it is absent."""
        return self.inputs[number] if number < len(self.inputs) else None

    def tensor(self, number: int) -> Tensor:
        """An input that depends on the model's input; a constant is turned into one."""
        value = self.value(number)
        if isinstance(value, Constant):
            return self.operand(value)
        if value is None:
            self.refuse(f"input {number} is missing")
        return value

    def constant(self, number: int, what: str) -> np.ndarray:
        """An input that must be a constant, the same for every batch size."""
        value = self.value(number)
        if value is None:
            self.refuse(f"its {what} is missing")
        if isinstance(value, Tensor):
            self.refuse(f"its {what} depends on the model's input", value)
        if not value.fixed:
            self.refuse(f"its {what} depends on the batch size")
        return value.arrays[0]

    def weight(self, number: int, what: str, rank: int | None = None) -> np.ndarray:
        """A constant of floats, of `rank` axes where that is given."""
        array = self.constant(number, what)
        if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
            self.refuse(f"its {what} must be floats; got {array.dtype}")
        if rank is not None and array.ndim != rank:
            self.refuse(f"its {what} must have {rank} axes; got the shape {array.shape}")
        return array

    def optional_weight(self, number: int, what: str, rank: int | None = None) -> np.ndarray | None:
        """`weight`, or None where the input is absent."""
        return None if self.value(number) is None else self.weight(number, what, rank)

    def scalar(self, number: int, what: str, default: Any = None) -> Any:
        """A constant of one number, as a Python number."""
        if self.value(number) is None:
            return default
        array = self.constant(number, what)
        if array.size != 1:
            self.refuse(f"its {what} must be one number; got the shape {array.shape}")
        return plain(float(array.reshape(-1)[0])) if array.dtype.kind == "f" else array.reshape(-1)[0].item()

    def integers(self, name: str, number: int | None = None) -> list[int] | None:
        """Integers that are an attribute in old opsets and input `number` in new ones; None where there are none."""
        if number is None or self.value(number) is None:
            return self.get_ints(name)
        array = self.constant(number, name)
        if array.ndim > 1 or array.dtype.kind not in "iu":
            self.refuse(f"its {name} must be a list of integers; got {array.dtype} {array.shape}")
        return [int(v) for v in array.reshape(-1)]

    def sizes(self, name: str, number: int) -> list[int] | None:
        """The sizes of a tensor's axes, `BATCH` where it is the batch size; None where there are none."""
        value = self.value(number)
        if not isinstance(value, Constant) or value.fixed or not self.batch:
            return self.integers(name, number)
        first, second = value.arrays
        if first.ndim != 1 or first.shape != second.shape:
            self.refuse(f"the number of its {name} depends on the batch size")
        pairs = list(zip(first.tolist(), second.tolist(), strict=True))
        if any(a != b and (a, b) != PROBES for a, b in pairs):
            self.refuse(f"its {name} make other axes of the batch axis")
        return [int(a) if a == b else BATCH for a, b in pairs]

    # Axes

    def axis(self, axis: int, rank: int) -> int:
        """ONNX's `axis` of a tensor of `rank` axes as convlayers counts it, with the batch as axis 0."""
        if not -rank <= axis < rank:
            self.refuse(f"axis {axis} is not one of the {rank} there are")
        place = axis % rank + (not self.batch)
        if place == 0:
            self.refuse("it works along the batch axis")
        return place

    def axes(self, axes: Sequence[int], rank: int) -> list[int]:
        """Several axes, sorted, each once."""
        places = sorted(self.axis(a, rank) for a in axes)
        if len(set(places)) < len(places):
            self.refuse(f"the axes {list(axes)} name one twice")
        return places

    # Layers

    def layer(self, layer: Layer, *tensors: Tensor, part: str = "", **arrays: np.ndarray | None) -> Tensor:
        """Put `layer` behind `tensors` with `arrays` as its parameters and buffers; `part` tells several layers apart."""
        return self.placed(layer, tensors, arrays, part)

    def placed(self, layer: Layer, tensors: Sequence[Tensor], arrays: dict[str, np.ndarray | None], part: str = "") -> Tensor:
        """`layer`, for arrays whose names are another's."""
        given = {key: array for key, array in arrays.items() if array is not None}
        key = (*self._signature, part, json.dumps(layer.config())) if self._signature and given else None
        return self._importer.place(self.name + (f"/{part}" if part else ""), layer, tensors, given, key)

    def operand(self, value: Constant) -> Tensor:
        """A constant as a tensor: a parameter of the model where it is trained, the same wherever it is read, else a buffer."""
        from ...layers.parameter import Parameter

        anchor = self._anchor or self._importer.anchor()
        sample = self.sample_of(value, anchor.rank)
        name = "operand" if not value.name else self._importer.tidy(value.name.rpartition("/")[2])
        if sample.dtype.kind not in "fiub":
            self.refuse(f'the constant "{value.name}" of type {sample.dtype} cannot be computed with')
        trained = value.trained and sample.dtype.kind == "f"
        layer = Parameter(list(sample.shape), trainable=trained)
        key = ("operand", value.name, sample.shape) if trained else None
        return self._importer.place(f"{self.name}/{name}", layer, [anchor], {"value": sample}, key)

    def sample_of(self, value: Constant, rank: int) -> np.ndarray:
        """What a constant is for one sample, where it stands beside a tensor of `rank` axes."""
        first = value.arrays[0]
        if not first.ndim and value.fixed:
            return first.reshape(1)
        if not self.batch:
            return first
        if first.ndim < rank and value.fixed:
            return first
        if first.ndim == rank and (len(first) == 1 or _rows_agree(value)):
            return first[0]
        shape = "(N, ...)" if not value.fixed else first.shape
        return self.refuse(f'the constant "{value.name}" of shape {shape} differs from sample to sample')


def _rows_agree(value: Constant) -> bool:
    """Whether every sample of every batch size has the same numbers, as a broadcast to the batch gives."""
    if [len(array) for array in value.arrays] != list(PROBES):
        return False
    row = value.arrays[0][:1]
    return all(array.shape[1:] == row.shape[1:] and bool((array == row).all()) for array in value.arrays)
