"""The graph as the layers write it: nodes, constants and names. Nothing here needs the onnx package.

Names in the file: inputs as in `model.input_names`, outputs `output` (`output_1`, `output_2`, ... for several), a parameter
as in `model.parameters()`. The node of operator `Conv` in layer `conv1`, and the value that it computes, are both `conv1/Conv`;
ONNX keeps the names of nodes and of values apart.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConvlayersError, ExportError, located
from ..layer import Layer, Shape
from ..model import Model
from .sizes import open_axes


class GraphNode(NamedTuple):
    """One operator; an absent optional input is an empty name, as in ONNX."""

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Value(NamedTuple):
    """An input, an output, or what the layer called `step` computes; the shape is without the batch axis. `axes` is what the
    file says of each axis: its size, its symbol, or None for one that depends on others. `place` is for messages."""

    name: str
    shape: Shape
    axes: tuple[int | str | None, ...]
    place: str
    step: str = ""


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}_{i}" for i in range(1, count + 1)]


class GraphBuilder:
    """What `to_onnx` sees (`convlayers.layer.OnnxGraph`), and what it leaves: `nodes`, `constants` and the named values.

    `layers` holds one value a step of the model, in its order. With `resized`, the model at other sizes, the axes whose sizes
    differ between these stay open. Raises `ExportError` with the layer's name for whatever a
    layer gets wrong.
    """

    def __init__(self, model: Model, opset: int, resized: Sequence[Model] = ()) -> None:
        self.opset, self.dynamic_image = opset, bool(resized)
        self.nodes: list[GraphNode] = []
        self.constants: dict[str, np.ndarray] = {}
        self._step_name = ""
        arrays = {**model.parameters(), **model.buffers()}
        self._array_names = {id(array): name for name, array in reversed(arrays.items())}
        names = list(model.input_names)
        self._taken = {*names, *arrays}
        outputs = [self._fresh(name) for name in _numbered("output", len(model.outputs))]
        axes = open_axes(model, resized)
        self.inputs = [Value(n, s, axes[n], n) for n, s in zip(names, model.input_shapes, strict=True)]
        self._known = set(names)
        self._shapes: dict[str, Shape] = dict(zip(names, model.input_shapes, strict=True))
        self.layers: list[Value] = []
        for step in model.steps:
            value = Value(step.name, model.value_shapes[step.target], axes[step.name], step.place, step.name)
            names.append(self._layer(step.layer, [names[s] for s in step.sources], value))
        self.outputs = [self._output(name, value, outputs) for name, value in zip(outputs, model.outputs, strict=True)]

    def first(self, count: int) -> "GraphBuilder":
        """The graph of the first `count` layers alone, with the last one's value as its output."""
        part = copy(self)
        part.layers = self.layers[:count]
        part.outputs = part.layers[-1:]
        end = next(i for i, node in enumerate(self.nodes) if part.outputs[0].name in node.outputs)
        part.nodes = self.nodes[: end + 1]
        read = {name for node in part.nodes for name in node.inputs}
        part.constants = {name: array for name, array in self.constants.items() if name in read}
        return part

    # What layers use

    def shape(self, name: str) -> Shape:
        """The shape of a layer's input or output, without the batch axis."""
        if name not in self._shapes:
            raise ExportError(f"the shape of {name!r} is not known; those of layers' inputs and outputs are")
        return self._shapes[name]

    def op(self, op_type: str, *inputs: str | np.ndarray | None, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Add a node and return its output's name, or a tuple of names for several outputs.

        An input is a name, an ndarray (which becomes a constant; a parameter keeps its name; float64 is written as
        float32), or None for an optional input that is absent. An attribute that is None is left out.
        """
        name = self._fresh(f"{self._step_name}/{op_type}")
        read = [self._input(op_type, value) for value in inputs]
        while read and not read[-1]:
            read.pop()
        made = (name, *(self._fresh(f"{name}:{i}") for i in range(1, outputs)))
        kept = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(GraphNode(name, op_type, domain, tuple(read), made, kept))
        self._known.update(made)
        return name if outputs == 1 else made

    # Names and constants

    def _fresh(self, name: str) -> str:
        fresh, count = name, 0
        while fresh in self._taken:
            count += 1
            fresh = f"{name}_{count}"
        self._taken.add(fresh)
        return fresh

    def _input(self, op_type: str, value: object) -> str:
        if value is None:
            return ""
        if isinstance(value, np.ndarray):
            return self._constant(op_type, value)
        if not isinstance(value, str):
            raise ExportError(f"an input of {op_type} is a name, an ndarray or None; got {value!r}")
        if value not in self._known:
            raise ExportError(f"{op_type} reads {value!r}, and no input or operator before it has that name")
        return value

    def _constant(self, op_type: str, array: np.ndarray) -> str:
        if array.dtype.kind not in "fiub":
            raise ExportError(f"a constant of {op_type} must hold real numbers; got dtype {array.dtype}")
        name = self._array_names.get(id(array))
        if name is None:
            name = self._array_names[id(array)] = self._fresh(f"{self._step_name}/constant")
        self.constants[name] = array  # also keeps the array alive, and with it its id
        return name

    # Layers and outputs

    def _layer(self, layer: Layer, sources: list[str], value: Value) -> str:
        place, first = value.place, len(self.nodes)
        self._step_name = value.step
        try:
            name = layer.to_onnx(self, *sources)
        except ConvlayersError as error:
            raise located(error, place) from error
        except Exception as error:
            raise ExportError(f"{place}: its to_onnx failed ({type(error).__name__}: {error})") from error
        if not isinstance(name, str) or name not in self._known:
            raise ExportError(f"{place}: its to_onnx must return the name of its output; got {name!r}")
        if all(name not in node.outputs for node in self.nodes[first:]):
            # A layer that hands its input on still gets a value of its own, to be compared and to be an output.
            name = self.op("Identity", name)
        self._shapes[name] = value.shape
        self.layers.append(value._replace(name=name))
        return name

    def _output(self, name: str, number: int, outputs: list[str]) -> Value:
        value = [*self.inputs, *self.layers][number]
        if number < len(self.inputs) or value.name in outputs:
            # An input, or a value that is an output already, gets its second name by a node.
            self.nodes.append(GraphNode(f"{name}/Identity", "Identity", "", (value.name,), (name,), {}))
            return value._replace(name=name)
        for i, node in enumerate(self.nodes):
            read, made = ([name if v == value.name else v for v in names] for names in (node.inputs, node.outputs))
            self.nodes[i] = node._replace(inputs=tuple(read), outputs=tuple(made))
        self.layers[number - len(self.inputs)] = renamed = value._replace(name=name)
        return renamed
