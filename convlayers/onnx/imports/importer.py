"""From the operators of an ONNX graph to a `Model`: each in turn becomes layers, or a constant, or a reason why not."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from ...errors import ConvlayersError, OnnxImportError
from ...layer import Layer, Node, Shape, build_layer, infer_shape
from ...layers.reshape import Identity
from ...model import Input, Model
from ...randomness import NoDraws
from ...shapes import features
from ..limits import MOST_AXES, MOST_VALUES, domain_of
from ..session import one_line
from . import handlers, inlining
from .folding import Folding, can_fold
from .merging import merge
from .op import Op
from .values import PROBES, Constant, RefusalError, Tensor, Value, behind, constant

# Bytes that constants and parameters may take, for a small file; for a large one, a few times those of its own weights.
_MOST_BYTES, _TIMES = 2**31, 4
_SHOWN, _SHOWN_KINDS = 12, 100
FAILED = "its handler failed:"


class Importer:
    """One pass over a checked graph. `inputs` gives the samples' shapes by name, `constants` the initializers, `functions` the
    local functions that are layers, `needed` the names of the values that somebody reads.

    `batch` says whether axis 0 is the batch, `file_batch` its size in the file, None where that is open.
    """

    def __init__(
        self,
        place: str,
        opsets: dict[str, int],
        inputs: dict[str, Shape],
        constants: dict[str, Constant],
        functions: dict[str, Any],
        needed: Collection[str],
        *,
        batch: bool = True,
        file_batch: int | None = None,
    ) -> None:
        self.place_name, self.opsets, self.batch, self.file_batch = place, opsets, batch, file_batch
        self.functions, self.needed = functions, needed
        self.values: dict[str, Value | None] = dict(constants)
        # What is in the way: operator, name, reason; and the values that would have to be constants.
        self.problems: list[tuple[str, str, str]] = []
        self._wanted: list[Node] = []
        self._bytes_left = _MOST_BYTES + _TIMES * sum(a.nbytes for value in constants.values() for a in value.arrays)
        self._folding = Folding()
        # The names of layers, with the last number that was put behind each.
        self._taken: dict[str, int] = {}
        self._layers: dict[Any, Layer] = {}
        self.inputs: dict[str, Tensor] = {}
        for name, shape in inputs.items():
            self.inputs[name] = Tensor(Input(shape, self.fresh(self.tidy(name) or "input")), batch)
        self.values.update(self.inputs)

    # Names

    @staticmethod
    def tidy(name: str) -> str:
        """`name` with the letters that a layer's name may have: `/layer1/layer1.0/conv` is `layer1/layer1_0/conv`."""
        return re.sub(r"[^A-Za-z0-9_\-/]+", "_", name).strip("/-")

    def fresh(self, name: str) -> str:
        """`name`, or with a number behind it where another layer has it."""
        found, count = name, self._taken.get(name, 0)
        while found in self._taken:
            count += 1
            found = f"{name}_{count}"
        self._taken[name] = count
        self._taken.setdefault(found, 0)
        return found

    def anchor(self) -> Tensor:
        """A tensor that knows the batch size."""
        if not self.inputs:
            raise RefusalError("nothing it reads depends on an input of the model")
        return next(iter(self.inputs.values()))

    @property
    def wanted(self) -> set[str]:
        """The inputs that would have to be constants for some operator."""
        return set(reached(self.inputs, self._wanted))

    # Operators

    def run(self, nodes: Iterable[Any]) -> None:
        """Read every operator; what cannot be imported is in `problems` afterwards."""
        for number, node in enumerate(nodes):
            inputs = [self.values.get(name) if name else None for name in node.input]
            if any(name and value is None for name, value in zip(node.input, inputs, strict=True)):
                results: Sequence[Value | None] = [None] * len(node.output)  # something before it is in the way already
            else:
                results = self._operator(node, number, inputs)
            for name, value in zip(node.output, results, strict=False):
                if name:
                    self.values[name] = value

    def _operator(self, node: Any, number: int, inputs: list[Value | None]) -> Sequence[Value | None]:
        name = self._name(node, number, inputs)
        try:
            return self._read(node, name, inputs)
        except RefusalError as refusal:
            if refusal.wanted is not None:
                self._wanted.append(refusal.wanted.node)
            reason = str(refusal)
        except ConvlayersError as error:
            reason = str(error)
        except MemoryError:
            reason = "its sizes do not fit into memory"
        except Exception as error:  # a plug-in's handler can raise anything
            reason = f"{FAILED} {type(error).__name__}: {one_line(error)}"
        self.problems.append((_operator_name(node), node.name or name, reason))
        return [None] * len(node.output)

    def _name(self, node: Any, number: int, inputs: Sequence[Value | None]) -> str:
        """What its `NAME.weight` is called, as PyTorch and this package write it; else its own name without `/Conv` behind it,
        else that of its output."""
        for value in inputs:
            if isinstance(value, Constant) and value.trained and value.name.endswith(".weight"):
                return self.tidy(value.name.removesuffix(".weight")) or f"node_{number}"
        given = self.tidy(node.name)
        for ending in (f"/{node.op_type}", f"_{node.op_type}"):
            given = given.removesuffix(ending)
        output = self.tidy(next((name for name in node.output if name), ""))
        return given or output or f"node_{number}"

    def _read(self, node: Any, name: str, inputs: list[Value | None]) -> Sequence[Value | None]:
        domain = domain_of(node)
        version = self.opsets.get(domain, 1)
        if all(value is None or isinstance(value, Constant) for value in inputs) and can_fold(node.op_type, domain):
            return self._folded(node, version, [value for value in inputs if not isinstance(value, Tensor)])
        if domain == inlining.LAYERS and node.op_type in self.functions:
            return [inlining.layer_of(self.functions[node.op_type], Op(self, node, name, version, inputs))]
        entry = handlers.find(domain, node.op_type, version)
        if entry is None:
            odd = [f"; the handler {name} is not named domain/Operator/opset" for name in handlers.misnamed()]
            raise RefusalError("no layer computes this operator" + "".join(odd))
        found = entry.load()(Op(self, node, name, version, inputs))
        results = list(found) if isinstance(found, tuple | list) else [found]
        wanted = [number for number, output in enumerate(node.output) if output in self.needed]
        if any(number >= len(results) for number in wanted):
            raise RefusalError(f"its output {max(wanted)} is not computed")
        if odd := [type(results[number]).__name__ for number in wanted if not isinstance(results[number], Tensor | Constant)]:
            raise RefusalError(f"its handler, of {entry.owner}, must give values of the graph; got {odd[0]}")
        return results

    def _folded(self, node: Any, version: int, inputs: list[Constant | None]) -> list[Constant]:
        probes = 1 if all(value is None or value.fixed for value in inputs) else len(PROBES)
        feeds = [[None if v is None else v.arrays[min(p, len(v.arrays) - 1)] for v in inputs] for p in range(probes)]
        runs = [self._folding.run(node, version, arrays) for arrays in feeds]
        names = [name for name in node.output if name]
        # What is made of a weight is a weight; a fill of several numbers stands for one.
        given = [value for value in inputs if value is not None]
        trained = any(value.trained for value in given) or node.op_type == "ConstantOfShape"
        results = []
        for name, arrays in zip(names, zip(*runs, strict=True), strict=True):
            self._take(sum(array.nbytes for array in arrays))
            floats = arrays[0].dtype.kind == "f" and arrays[0].size > 1
            results.append(constant(name, list(arrays), trained and floats and probes == 1))
        return results

    def _take(self, size: int) -> None:
        """Count bytes against what one file may take."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise RefusalError("with it, what the file makes of its weights would take more memory than a file may")

    # Layers

    def place(
        self, name: str, layer: Layer, tensors: Sequence[Tensor], arrays: dict[str, np.ndarray], key: Any = None
    ) -> Tensor:
        """Put `layer` behind `tensors`, built, with its arrays; one of the same `key` stands there a second time."""
        shapes = [tensor.node.shape for tensor in tensors]
        known = self._layers.get(key) if key is not None else None
        if known is not None:
            layer, shape = known, infer_shape(known, shapes, type(known).__name__, limit=MOST_VALUES)
        else:
            shape = self._built(layer, shapes, arrays)
            if key is not None:
                self._layers[key] = layer
        return Tensor(Node(layer, [tensor.node for tensor in tensors], self.fresh(name), shape), self.batch)

    def _built(self, layer: Layer, shapes: list[Shape], arrays: dict[str, np.ndarray]) -> Shape:
        self._take(4 * sum(array.size for array in arrays.values()))
        shape = build_layer(layer, shapes, NoDraws(MOST_VALUES), type(layer).__name__)
        if features(shape) > MOST_VALUES or len(shape) > MOST_AXES:
            raise RefusalError(f"its output of shape {shape!s:.200} is too large")
        layer.built_for = shapes
        for key, array in arrays.items():
            home = layer.params if key in layer.params else layer.buffers
            if key not in home or home[key].shape != array.shape:
                own = home[key].shape if key in home else "of nothing"
                raise RefusalError(f"its {key} must have the shape {own}; got {array.shape}")
            home[key] = np.array(array, np.float32, order="C")
        rest = (layer.params | layer.buffers).keys() - arrays.keys()
        self._take(sum((layer.params | layer.buffers)[key].nbytes for key in rest))
        return shape

    # The model

    def model(self, outputs: Sequence[str]) -> Model:
        """The model that computes `outputs`. Raises `OnnxImportError` that lists all that is in the way."""
        self._raise_problems()
        values = [self.values.get(name) for name in outputs]
        for name, value in zip(outputs, values, strict=True):
            if not isinstance(value, Tensor):
                raise OnnxImportError(f'{self.place_name}: its output "{name}" does not depend on its input')
        return self.built([value for value in values if isinstance(value, Tensor)])

    def built(self, outputs: Sequence[Tensor]) -> Model:
        """The model of these outputs, and of the inputs that they depend on; one that is an input itself gets a layer."""
        nodes = [v.node if v.node.layer else self.place("identity", Identity(), [v], {}).node for v in outputs]
        merge(nodes)
        return Model([self.inputs[name].node for name in reached(self.inputs, nodes)], nodes)

    def _raise_problems(self) -> None:
        if not self.problems:
            return
        places: dict[tuple[str, str], list[str]] = {}
        for operator, name, reason in self.problems:
            places.setdefault((operator, reason), []).append(f'"{name}"')
        parts = [f"{operator} {_listed(names)}: {reason}" for (operator, reason), names in places.items()]
        rest = {operator for operator, _ in list(places)[_SHOWN_KINDS:]}
        if rest:
            parts[_SHOWN_KINDS:] = [f"and {len(places) - _SHOWN_KINDS} more reasons, at {', '.join(sorted(rest))}"]
        raise OnnxImportError(f"{self.place_name} cannot be imported; in the way are {'; '.join(parts)}")


def reached(inputs: dict[str, Tensor], outputs: Sequence[Node]) -> list[str]:
    """The names of the inputs that these outputs depend on."""
    found = set(behind(outputs))
    return [name for name, tensor in inputs.items() if tensor.node in found]


def _operator_name(node: Any) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
