"""The graph as the layers write it: nodes, constants and names. Nothing here needs the onnx package.

Names in the file: inputs as in `model.input_names`, outputs `output` (`output_1`, `output_2`, ... for several), a parameter
as in `model.parameters()`. The node of operator `Conv` in layer `conv1`, and the value that it computes, are both `conv1/Conv`;
ONNX keeps the names of nodes and of values apart.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import NamedTuple

import numpy as np

from ..errors import ConvlayersError, ExportError, located
from ..layer import Layer, Shape
from ..model import Model
from .body import GraphFunction, write_function
from .functions import DOMAIN
from .nodes import GraphNode, NodeWriter
from .sizes import open_axes


class Value(NamedTuple):
    """An input, an output, or what the layer called `step` computes; the shape is without the batch axis. `axes` is what the
    file says of each axis: its size, its symbol, or None for one that depends on others. `place` is for messages. `pixels`
    marks an input of uint8; all else is float32."""

    name: str
    shape: Shape
    axes: tuple[int | str | None, ...]
    place: str
    step: str = ""
    pixels: bool = False


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}_{i}" for i in range(1, count + 1)]


class GraphBuilder(NodeWriter):
    """What `to_onnx` sees (`convlayers.layer.OnnxGraph`), and what it leaves: `nodes`, `constants`, `functions` and the named
    values.

    `layers` holds one value a step of the model, in its order. With `resized`, the model at other sizes, the axes whose sizes
    differ between these stay open; with `pixels`, the inputs are uint8. Raises `ExportError` with the layer's name for
    whatever a layer gets wrong.
    """

    def __init__(self, model: Model, opset: int, resized: Sequence[Model] = (), pixels: bool = False) -> None:
        names, arrays = list(model.input_names), {**model.parameters(), **model.buffers()}
        shapes = dict(zip(names, model.input_shapes, strict=True))
        super().__init__(opset, bool(resized), "", shapes, set(arrays))
        self.constants: dict[str, np.ndarray] = {}
        self.functions: dict[str, GraphFunction] = {}  # by what tells them apart
        self._array_names = {id(array): name for name, array in reversed(arrays.items())}
        outputs = [self._fresh(name) for name in _numbered("output", len(model.outputs))]
        axes = open_axes(model, resized)
        self.inputs = [Value(n, s, axes[n], n, pixels=pixels) for n, s in zip(names, model.input_shapes, strict=True)]
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
        called = {node.op_type for node in part.nodes if node.domain == DOMAIN}
        part.functions = {key: function for key, function in self.functions.items() if function.name in called}
        return part

    # What layers use besides operators

    def function(self, layer: Layer, inputs: Sequence[str], body: Callable[..., str]) -> str:
        """Add a node that stands for the layer whole, an ONNX local function of the layer's name; returns its output's name.

        `body(graph, *inputs)` adds the operators inside and returns the name of their result. The file keeps the layer's id
        and configuration beside them, so that an importer that has the layer can make it anew.
        """
        written = write_function(layer, [self.shape(name) for name in inputs], body, self)
        function = self.functions.get(written.same_as)
        if function is None:
            same_id = sum(other.layer == written.layer for other in self.functions.values())
            function = written._replace(name=f"{written.layer}_{same_id + 1}" if same_id else written.layer)
            self.functions[written.same_as] = function
        read = [self._input(function.name, value) for value in (*inputs, *layer.params.values(), *layer.buffers.values())]
        output = self._fresh(f"{self._prefix}{function.name}")
        self._add(GraphNode(self._prefix.removesuffix("/"), function.name, DOMAIN, tuple(read), (output,), {}))
        return output

    def _constant(self, array: np.ndarray) -> str:
        name = self._array_names.get(id(array))
        if name is None:
            name = self._array_names[id(array)] = self._fresh(f"{self._prefix}constant")
        self.constants[name] = array  # also keeps the array alive, and with it its id
        return name

    # Layers and outputs

    def _layer(self, layer: Layer, sources: list[str], value: Value) -> str:
        place, first = value.place, len(self.nodes)
        self._prefix = f"{value.step}/"
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
