"""From bytes that nobody vouches for to a graph that is safe to walk.

Sizes, depth and references are checked before memory is taken: a file can say that it holds more than it does, call its own
functions for ever, or point outside its folder.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ArrayTypeError, FileAccessError, FileFormatError, OnnxImportError
from ...files import read_whole
from ..session import one_line
from .folding import MOST_VALUES
from .values import Constant

_MOST_NODES = 100_000
_DEEPEST = 16


def parse(source: Any) -> tuple[Any, str]:
    """The `ModelProto` in a file or in bytes, and how to call it in messages."""
    from onnx import load_model_from_string

    if isinstance(source, str | os.PathLike):
        data, place = read_whole(source), os.fspath(source)
    elif isinstance(source, bytes | bytearray | memoryview):
        data, place = bytes(source), "the ONNX model"
    else:
        raise ArrayTypeError(f"import_onnx takes a path or the bytes of a file; got {type(source).__name__}")
    try:
        proto = load_model_from_string(data)
    except Exception as error:  # protobuf's errors have no other base
        raise FileFormatError(f"{place} is not a whole ONNX file: {one_line(error)}") from error
    if not proto.ir_version or not proto.opset_import or not (proto.graph.node or proto.graph.initializer):
        raise FileFormatError(f"{place} is not a whole ONNX file: it has no IR version, no opset or no operators")
    return proto, place


def check(proto: Any, place: str) -> None:
    """Sizes and depth, then onnx's own checker. Raises `FileFormatError`."""
    from onnx import checker

    nodes = 0
    for depth, part in _parts(proto):
        nodes += len(part.node)
        if nodes > _MOST_NODES or depth > _DEEPEST:
            raise FileFormatError(f"{place}: more than {_MOST_NODES} operators, or graphs nested more than {_DEEPEST} deep")
    for tensor in tensors(proto):
        _check_dims(tensor, place)
    try:
        checker.check_model(without_weights(proto))
    except Exception as error:  # the checker and protobuf have no common base
        raise FileFormatError(f"{place}: onnx.checker refuses the file: {one_line(error)}") from error


def without_weights(proto: Any) -> Any:
    """A copy for the checker: large initializers become inputs, so that a hundred megabytes are not copied to be skimmed."""
    from onnx import ModelProto, helper

    small = ModelProto()
    for field, value in proto.ListFields():
        if field.name != "graph":
            _set(small, field, value)
    for field, value in proto.graph.ListFields():
        if field.name != "initializer":
            _set(small.graph, field, value)
    for entry in (*small.graph.input, *small.graph.output):
        entry.type.tensor_type.shape.SetInParent()  # the checker wants a shape, and nobody else does
    known = {entry.name for entry in proto.graph.input}
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) < 4096 and not tensor.external_data:
            small.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in known:
            small.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return small


def _set(message: Any, field: Any, value: Any) -> None:
    if hasattr(value, "extend") or hasattr(value, "add"):
        getattr(message, field.name).extend(value)
    elif hasattr(value, "CopyFrom"):
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def _parts(proto: Any) -> Iterator[tuple[int, Any]]:
    """The graph, its functions and every graph inside an operator, with their depth."""
    waiting = [(0, proto.graph), *((0, function) for function in proto.functions)]
    while waiting:
        depth, part = waiting.pop()
        yield depth, part
        for node in part.node:
            for attribute in node.attribute:
                graphs = [attribute.g] if attribute.HasField("g") else attribute.graphs
                waiting += [(depth + 1, graph) for graph in graphs]


def tensors(proto: Any) -> Iterator[Any]:
    """Every tensor of a file, in subgraphs and functions too."""
    for _, part in _parts(proto):
        yield from getattr(part, "initializer", ())
        for sparse in getattr(part, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in part.node:
            for attribute in node.attribute:
                yield from [attribute.t] if attribute.HasField("t") else attribute.tensors


def _check_dims(tensor: Any, place: str) -> None:
    if min(tensor.dims, default=0) < 0 or math.prod(tensor.dims) > MOST_VALUES:
        raise FileFormatError(
            f'{place}: tensor "{tensor.name}" has the shape {tuple(tensor.dims)}; at most {MOST_VALUES} values are read'
        )


# Weights


def constants(proto: Any, names: set[str], place: str, folder: Path | None) -> dict[str, Constant]:
    """The initializers called `names`. `folder` is where their files lie, None where they must not be read."""
    found = {}
    for tensor in proto.graph.initializer:
        if tensor.name in names:
            array = array_of(tensor, place, folder)
            found[tensor.name] = Constant(tensor.name, (array,), array.dtype.kind == "f" and array.size > 1)
    for sparse in proto.graph.sparse_initializer:
        if sparse.values.name in names:
            raise OnnxImportError(f'{place}: the weight "{sparse.values.name}" is sparse; store it dense')
    return found


def array_of(tensor: Any, place: str, folder: Path | None) -> np.ndarray:
    """A tensor's values, read-only where they are those of the file."""
    from onnx import numpy_helper

    try:
        if tensor.external_data or tensor.data_location == tensor.EXTERNAL:
            array = _external(tensor, place, folder)
        else:
            array = numpy_helper.to_array(tensor)
    except (FileFormatError, FileAccessError, OnnxImportError):
        raise
    except Exception as error:  # what it raises depends on the data type
        shape = tuple(tensor.dims)
        raise FileFormatError(
            f'{place}: tensor "{tensor.name}" does not hold what its shape {shape} says: {one_line(error)}'
        ) from error
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _external(tensor: Any, place: str, folder: Path | None) -> np.ndarray:
    """The values of a tensor in another file, below the model's folder and nowhere else."""
    from onnx import helper

    said = {entry.key: entry.value for entry in tensor.external_data}
    where = f'{place}: tensor "{tensor.name}"'
    if folder is None:
        raise OnnxImportError(f"{where} lies in another file, {said.get('location')!r}; external_data=True reads it")
    root = folder.resolve()
    path = (root / said.get("location", "")).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        raise FileAccessError(f"{where} lies in {said.get('location')!r}, which is no file below the model's folder")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
    offset, count = int(said.get("offset", 0)), math.prod(tensor.dims)
    if offset < 0 or offset + count * dtype.itemsize > path.stat().st_size:
        raise FileFormatError(f"{where} needs {count * dtype.itemsize} bytes from {offset} on; {path.name} is shorter")
    return np.fromfile(path, dtype, count, offset=offset).reshape(tuple(tensor.dims))
