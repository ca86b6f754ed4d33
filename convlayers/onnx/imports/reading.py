"""From bytes that nobody vouches for to a graph that is safe to walk.

Sizes, depth and references are checked before memory is taken: a file can say that it holds more than it does, call its own
functions for ever, or point outside its folder.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ArrayTypeError, FileAccessError, FileFormatError, OnnxImportError
from ...files import read_whole
from ...shapes import features
from ..limits import check_limits, is_external, tensors
from ..session import one_line
from .values import Constant

# A weight of more values is not shown to the checker.
_SMALL = 4096


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
    """Sizes, depth and calls, then onnx's own checker. Raises `FileFormatError`."""
    from onnx import checker

    check_limits(proto, place)
    external = [tensor.name for tensor in tensors(proto) if is_external(tensor)]
    if len(external) > sum(map(is_external, proto.graph.initializer)):
        names = ", ".join(f'"{name}"' for name in external[:12])
        raise OnnxImportError(f"{place}: of {names}, in other files, some are no weights of the graph; store those inside")
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
        if entry.type.HasField("tensor_type"):
            entry.type.tensor_type.shape.SetInParent()  # the checker wants a shape, and nobody else does
    known = {entry.name for entry in proto.graph.input}
    for tensor in proto.graph.initializer:
        if features(tensor.dims) < _SMALL and not is_external(tensor):
            small.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in known:
            small.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return small


def _set(message: Any, field: Any, value: Any) -> None:
    if hasattr(value, "extend") or hasattr(value, "add"):
        getattr(message, field.name).extend(value)
    elif hasattr(value, "CopyFrom"):
        getattr(message, field.name).CopyFrom(value)
    elif not isinstance(value, bytes):  # a text that is no UTF-8, and that nobody needs
        setattr(message, field.name, value)


# Weights


class Weights:
    """The initializers of a file, read when they are asked for. `folder` is where the files of external ones lie, None where
    those must not be read."""

    def __init__(self, place: str, folder: Path | None) -> None:
        self._place, self._folder = place, folder
        # Bytes of each file that no tensor has claimed yet: two tensors do not share any.
        self._left: dict[Path, int] = {}

    def constants(self, graph: Any, names: Collection[str]) -> dict[str, Constant]:
        """The initializers called `names`."""
        found = {}
        for tensor in graph.initializer:
            if tensor.name in names:
                array = self._array(tensor)
                found[tensor.name] = Constant(tensor.name, (array,), array.dtype.kind == "f" and array.size > 1)
        for sparse in graph.sparse_initializer:
            if sparse.values.name in names:
                raise OnnxImportError(f'{self._place}: the weight "{sparse.values.name}" is sparse; store it dense')
        return found

    def _array(self, tensor: Any) -> np.ndarray:
        """A tensor's values, read-only where they are those of the file."""
        from onnx import numpy_helper

        if is_external(tensor):
            array = self._external(tensor)
        else:
            try:
                array = numpy_helper.to_array(tensor)
            except Exception as error:  # what it raises depends on the data type
                shape = tuple(tensor.dims)
                raise FileFormatError(
                    f'{self._place}: tensor "{tensor.name}" does not hold what its shape {shape} says: {one_line(error)}'
                ) from error
        return array.astype(np.float32) if array.dtype.name == "bfloat16" else array

    def _external(self, tensor: Any) -> np.ndarray:
        """The values of a tensor in another file, below the model's folder and nowhere else."""
        said = {entry.key: entry.value for entry in tensor.external_data}
        location, where = said.get("location", ""), f'{self._place}: tensor "{tensor.name}"'
        if self._folder is None:
            raise OnnxImportError(f"{where} lies in another file, {location!r:.200}; external_data=True reads it")
        path = _below(self._folder, location)
        if path is None:
            raise FileAccessError(f"{where} lies in {location!r:.200}, which is no file below the model's folder")
        dtype, count = _stored(tensor, where), features(tensor.dims)
        size = count * dtype.itemsize
        offset, length = _number(said.get("offset", "0"), where), _number(said.get("length", str(size)), where)
        left = self._left.setdefault(path, path.stat().st_size)
        if length != size or offset + size > path.stat().st_size or size > left:
            raise FileFormatError(
                f"{where} needs {size} bytes of {path.name}, and takes {length} from {offset} on; {left} of "
                f"{path.stat().st_size} bytes belong to no other tensor"
            )
        self._left[path] -= size
        try:
            return np.fromfile(path, dtype, count, offset=offset).reshape(tuple(tensor.dims))
        except OSError as error:
            raise FileAccessError(f"{where}: cannot read {path.name}: {one_line(error)}") from error


def _below(folder: Path, location: str) -> Path | None:
    """The real path of `location` in `folder`, links followed; None where that is no file, or lies elsewhere."""
    root = folder.resolve()
    try:
        path = (root / location).resolve()
        return path if path.is_relative_to(root) and path.is_file() else None
    except (OSError, ValueError):  # a name that no file can have
        return None


def _stored(tensor: Any, where: str) -> np.dtype:
    """The type of values in another file: numbers of whole bytes."""
    from onnx import helper

    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except KeyError:
        dtype = np.dtype(object)
    if dtype.kind not in "fiub" and dtype.name != "bfloat16":
        raise OnnxImportError(f"{where} is of data type {tensor.data_type}, which is not read from other files")
    return dtype if dtype.name == "bfloat16" else dtype.newbyteorder("<")


def _number(text: str, where: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise FileFormatError(f"{where}: offset and length of external data are counts of bytes; got {text!r:.40}")
    return int(text)
