"""ONNX local functions: a layer's operators under the layer's own name."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import ExportError
from ..layer import Layer, Shape
from ..registry import source_of
from .functions import describe
from .nodes import GraphNode, NodeWriter


class GraphFunction(NamedTuple):
    """A function of the file: its name, its layer's id, what it reads and gives, its operators, and what it says of the
    layer."""

    name: str
    layer: str
    inputs: tuple[str, ...]
    output: str
    nodes: tuple[GraphNode, ...]
    doc: str

    @property
    def same_as(self) -> str:
        """A text that functions of one doc string and one body share."""
        nodes = [node._replace(attributes={k: _text(v) for k, v in node.attributes.items()}) for node in self.nodes]
        return repr((self.doc, self.inputs, self.output, nodes))


def _text(value: Any) -> Any:
    return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


class FunctionBody(NodeWriter):
    """What a function's `body` sees: an `OnnxGraph` whose inputs are the function's; the layer's arrays are inputs too, and
    other arrays become `Constant` nodes."""

    def __init__(self, layer: Layer, shapes: Sequence[Shape], opset: int, dynamic_image: bool) -> None:
        arrays = {**layer.params, **layer.buffers}
        self.data = tuple(f"x_{number}" if len(shapes) > 1 else "x" for number, _ in enumerate(shapes, 1))
        self.params = tuple(arrays)
        if clash := set(self.data) & set(self.params):
            raise ExportError(f"the parameter {min(clash)!r} has the name of the function's input; give it another")
        super().__init__(opset, dynamic_image, "", dict(zip(self.data, shapes, strict=True)), set(arrays))
        self._known.update(arrays)
        self._array_names = {id(array): name for name, array in arrays.items()}

    def _constant(self, array: np.ndarray) -> str:
        return self._array_names.get(id(array)) or self.op("Constant", value=array)


def write_function(layer: Layer, shapes: Sequence[Shape], body: Callable[..., str], outer: NodeWriter) -> GraphFunction:
    """The function that `body(graph, *inputs)` writes for inputs of these shapes, named by the layer's id."""
    inner = FunctionBody(layer, shapes, outer.opset, outer.dynamic_image)
    output = body(inner, *inner.data)
    if not isinstance(output, str) or all(output not in node.outputs for node in inner.nodes):
        raise ExportError(f"a function's body must return the name of what it computes; got {output!r}")
    doc, layer_id = describe(layer, inner.params), source_of(type(layer)).id
    return GraphFunction(layer_id, layer_id, (*inner.data, *inner.params), output, tuple(inner.nodes), doc)
