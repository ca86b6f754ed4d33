"""What a file will take when it is run, as far as it says so itself: looked at before onnxruntime takes it.

onnxruntime computes what depends on constants alone while it opens a file, and the rest when it is run. A file of a few bytes
can ask for a Range of 2**60 values, or for an image resized to 2**40 pixels; no error is sure to come before the machine's
memory is gone.
"""

from typing import Any

import numpy as np

from ..errors import ExportError
from ..shapes import features
from .imports.folding import Folding, TooMuchError, can_fold
from .imports.reading import without_weights
from .imports.values import RefusalError
from .limits import MOST_VALUES, domain_of

Known = dict[str, np.ndarray]


def check_memory(proto: Any, place: str) -> None:
    """Every value whose size the file says, and every constant that it computes. Raises `ExportError` for a larger one
    than can be meant. For a file that onnx.checker has passed."""
    whole = _with_shapes(without_weights(proto))
    shapes = {}
    for entry in (*whole.graph.input, *whole.graph.value_info, *whole.graph.output):
        shape = entry.type.tensor_type.shape
        size = features([max(dim.dim_value, 1) for dim in shape.dim])
        if size > MOST_VALUES:
            raise ExportError(f'{place}: "{entry.name}" would hold {size} values, more than the {MOST_VALUES} allowed')
        if entry.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in shape.dim):
            shapes[entry.name] = np.array([dim.dim_value for dim in shape.dim], np.int64)
    opset = next((entry.version for entry in whole.opset_import if entry.domain in ("", "ai.onnx")), 1)
    _Walk(opset, shapes, place).graph(whole.graph, {})


def _with_shapes(proto: Any) -> Any:
    """The file with its functions written out and the shapes that onnx infers, where it can do both."""
    from onnx import inliner, shape_inference

    try:
        whole = inliner.inline_local_functions(proto) if proto.functions else proto
        return shape_inference.infer_shapes(whole)
    except Exception:  # onnxruntime has its own opinion of such a file
        return proto


class _Walk:
    """One pass over a graph and the graphs inside its operators; `shapes` are those of values that are known."""

    def __init__(self, opset: int, shapes: Known, place: str) -> None:
        self._opset, self._shapes, self._place = opset, shapes, place
        self._folding = Folding()

    def graph(self, graph: Any, outer: Known) -> None:
        """Compute every constant; `outer` are those around the graph."""
        from onnx import numpy_helper

        known = {**outer, **{tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}}
        for node in graph.node:
            for attribute in node.attribute:
                for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                    self.graph(inner, known)
            known.update(self._computed(node, known))

    def _computed(self, node: Any, known: Known) -> Known:
        if node.op_type == "Shape" and not node.attribute and node.input[0] in self._shapes:
            return {node.output[0]: self._shapes[node.input[0]]}
        inputs = [known.get(name) if name else None for name in node.input]
        unknown = any(name and array is None for name, array in zip(node.input, inputs, strict=True))
        if unknown or not can_fold(node.op_type, domain_of(node)):
            return {}
        try:
            found = self._folding.run(node, self._opset, inputs)
        except TooMuchError as error:
            name = node.name or ", ".join(node.output)
            raise ExportError(f'{self._place}: {node.op_type} "{name}": {error}') from error
        except RefusalError:  # onnxruntime will say what is wrong with it
            return {}
        return dict(zip([name for name in node.output if name], found, strict=False))
