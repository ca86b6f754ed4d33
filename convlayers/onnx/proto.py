"""Between the graph and the bytes of a file: writing it, checking it, reading it back with care.

Weights are large and say nothing about the graph. So what onnx checks, and what is run layer by layer, is the graph with its
weights as further inputs (`sketch`); they go from the model's own memory into the file (`stream.write`), and no message holds
them.
"""

from collections.abc import Iterable
from os import PathLike
from typing import Any

import numpy as np

from ..errors import ExportError, ExportMismatchError, FileFormatError
from ..files import read_whole
from .body import GraphFunction
from .functions import DOMAIN
from .graph import GraphBuilder, Value
from .limits import check_limits, check_runnable, is_external, tensors
from .memory import check_memory
from .nodes import GraphNode
from .session import one_line

# What protobuf can hold in one message, less room for names and metadata.
LARGEST = 2**31 - 2**24
# ONNX's own domain follows the opset that was asked for; other domains are written at their first usable version.
_DOMAIN_VERSIONS = {"ai.onnx.ml": 2}
_OLDEST_IR_WITH_FUNCTIONS = 8
# A constant of more values is a weight, if it holds floats; shape inference needs the values of the others.
_SMALL = 1024


def as_written(array: np.ndarray) -> np.ndarray:
    """The array as a file holds it: in C order, little-endian, float64 as float32; itself where it is so already."""
    wide = array.dtype.kind == "f" and array.dtype.itemsize > 4
    return np.asarray(array, np.float32 if wide else array.dtype.newbyteorder("<"), order="C")


def _node(node: GraphNode) -> Any:
    from onnx import helper, numpy_helper

    made = helper.make_node(node.op_type, node.inputs, node.outputs, name=node.name, domain=node.domain)
    for key, value in node.attributes.items():
        try:
            tensor = isinstance(value, np.ndarray)
            made.attribute.append(helper.make_attribute(key, numpy_helper.from_array(as_written(value)) if tensor else value))
        except (TypeError, ValueError) as error:
            raise ExportError(f'node "{node.name}": attribute {key}={value!r} is nothing ONNX can hold ({error})') from error
    return made


def _imports(opset: int, nodes: Iterable[GraphNode]) -> list[Any]:
    """The versions of the domains that the nodes are of, ONNX's own first."""
    from onnx import helper

    domains = sorted({node.domain for node in nodes} - {"", "ai.onnx"})
    others = [helper.make_opsetid(domain, _DOMAIN_VERSIONS.get(domain, 1)) for domain in domains]
    return [helper.make_opsetid("", opset), *others]


def _function(function: GraphFunction, opset: int) -> Any:
    from onnx import helper

    nodes, imports = [_node(node) for node in function.nodes], _imports(opset, function.nodes)
    made = helper.make_function(DOMAIN, function.name, function.inputs, [function.output], nodes, imports)
    made.doc_string = function.doc
    return made


def _info(value: Value, *, shape: bool = True) -> Any:
    from onnx import TensorProto, helper

    kind = TensorProto.UINT8 if value.pixels else TensorProto.FLOAT
    return helper.make_tensor_value_info(value.name, kind, ["N", *value.axes] if shape else None)


def build(graph: GraphBuilder, version: str) -> Any:
    """The graph as a `ModelProto` without constants, in the oldest IR version that its opset allows, so that old runtimes
    read it.

    Only the inputs' shapes are in it: `declare` adds the others when they have been inferred and compared.
    """
    from onnx import helper

    size = sum(array.size * min(array.itemsize, 4 if array.dtype.kind == "f" else 8) for array in graph.constants.values())
    if size > LARGEST:
        raise ExportError(f"the model's constants take {size / 2**30:.1f} GB; an ONNX file holds at most 2 GB")
    inside = [node for function in graph.functions.values() for node in function.nodes]
    imports = _imports(graph.opset, [*graph.nodes, *inside])
    oldest = _OLDEST_IR_WITH_FUNCTIONS if graph.functions else 0
    body = helper.make_graph(
        [_node(node) for node in graph.nodes],
        "convlayers",
        [_info(value) for value in graph.inputs],
        [_info(value, shape=False) for value in graph.outputs],
    )
    return helper.make_model(
        body,
        opset_imports=imports,
        functions=[_function(function, graph.opset) for function in graph.functions.values()],
        ir_version=max(helper.find_min_ir_version_for(imports[:1]), oldest),
        producer_name="convlayers",
        producer_version=version,
    )


def weights(graph: GraphBuilder) -> dict[str, np.ndarray]:
    """The constants that are weights, as they are written."""
    large = {name: array for name, array in graph.constants.items() if array.dtype.kind == "f" and array.size > _SMALL}
    return {name: as_written(array) for name, array in large.items()}


def sketch(proto: Any, graph: GraphBuilder) -> Any:
    """The model with its small constants, and with an input for each of its weights."""
    from onnx import ModelProto, helper, numpy_helper

    large = weights(graph)
    whole = ModelProto()
    whole.CopyFrom(proto)
    small = [(name, as_written(array)) for name, array in graph.constants.items() if name not in large]
    whole.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in small)
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in large.items()}
    whole.graph.input.extend(helper.make_tensor_value_info(name, types[name], large[name].shape) for name in large)
    return whole


def compare_shapes(proto: Any, graph: GraphBuilder) -> None:
    """Compare the shapes that ONNX infers with the layers' own; `ExportMismatchError` names the first layer that differs.

    A shape that ONNX cannot infer, behind an operator of another domain, is left to the run.
    """
    from onnx import shape_inference

    try:
        inferred = shape_inference.infer_shapes(proto, data_prop=True).graph
    except Exception as error:
        raise ExportError(f"onnx cannot infer the shapes: {one_line(error)}") from error
    types = {info.name: info.type.tensor_type for info in [*inferred.value_info, *inferred.output]}
    for layer in graph.layers:
        found = types.get(layer.name)
        if found is None or not found.HasField("shape"):
            continue
        sizes = [axis.dim_value if axis.HasField("dim_value") else None for axis in found.shape.dim]
        own = [None, *(size if isinstance(size, int) else None for size in layer.axes)]
        if len(sizes) != len(own) or any(s not in (None, n) for s, n in zip(sizes, own, strict=True)):
            raise ExportMismatchError(
                f"{layer.place}: its to_onnx gives the shape {_shown(sizes)}, the layer itself {_shown(own)}"
            )


def _shown(sizes: list[int | None]) -> str:
    batch = "N" if sizes[:1] == [None] else str(sizes[0]) if sizes else ""
    return "(" + ", ".join([batch, *("?" if size is None else str(size) for size in sizes[1:])]) + ")"


def declare(proto: Any, graph: GraphBuilder) -> None:
    """Write the shape of every layer's output into the file."""
    outputs = {value.name for value in graph.outputs}
    del proto.graph.output[:]
    proto.graph.output.extend(_info(value) for value in graph.outputs)
    proto.graph.value_info.extend(_info(value) for value in graph.layers if value.name not in outputs)


def with_layers(proto: Any, graph: GraphBuilder) -> Any:
    """The sketch with every layer's output as an output, in the order of the layers."""
    whole = sketch(proto, graph)
    del whole.graph.output[:]
    whole.graph.output.extend(_info(value) for value in graph.layers)
    return whole


def check(data: bytes, place: str) -> None:
    """onnx's own checker with strict shape inference; `ExportError` with its reason."""
    from onnx import checker

    try:
        checker.check_model(data, full_check=True)
    except Exception as error:  # the checker and the shape inference have no common base
        raise ExportError(f"{place}: onnx.checker refuses the file: {one_line(error)}") from error


def read(path: str | PathLike[str]) -> tuple[bytes, Any]:
    """The bytes of an ONNX file and the `ModelProto` in them, checked.

    Raises `FileFormatError` for a file that is empty, truncated, corrupt or something else, `ExportError` for one that
    fails the checker or keeps its weights in other files.
    """
    from onnx import load_model_from_string

    data = read_whole(path)
    try:
        proto = load_model_from_string(data)
    except Exception as error:
        raise FileFormatError(f"{path} is not a whole ONNX file: {one_line(error)}") from error
    if not proto.ir_version or not proto.graph.node or not proto.opset_import:
        raise FileFormatError(f"{path} is not a whole ONNX file: it has no IR version, no opset or no operators")
    check_limits(proto, str(path))
    check_runnable(proto, str(path))
    for tensor in tensors(proto):
        _check_tensor(tensor, str(path))
    check(data, str(path))
    check_memory(proto, str(path))
    return data, proto


def _check_tensor(tensor: Any, place: str) -> None:
    from onnx import numpy_helper

    if is_external(tensor):
        raise ExportError(f'{place}: tensor "{tensor.name}" lies in another file; store the weights inside the ONNX file')
    try:
        numpy_helper.to_array(tensor)
    except Exception as error:  # what it raises depends on the data type
        shape = tuple(tensor.dims)
        raise FileFormatError(
            f'{place}: tensor "{tensor.name}" does not hold what its shape {shape} says: {one_line(error)}'
        ) from error
