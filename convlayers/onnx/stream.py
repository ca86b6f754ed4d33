"""The bytes of an ONNX file, written part by part: the graph as a message, the weights as they lie in memory, the metadata."""

from typing import Any, BinaryIO

import numpy as np

from .proto import as_written

# The tags of protobuf's fields that `write` fills itself (number << 3 | 2): ModelProto.graph, GraphProto.initializer,
# TensorProto.raw_data, as in onnx.proto.
_GRAPH, _INITIALIZER, _RAW_DATA = b"\x3a", b"\x2a", b"\x4a"


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that another byte follows."""
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def write(file: BinaryIO, proto: Any, constants: dict[str, np.ndarray]) -> None:
    """The bytes of `proto` with these constants, written as they lie in memory."""
    from onnx import ModelProto, TensorProto, helper

    arrays = {name: as_written(array) for name, array in constants.items()}
    heads = []
    for name, array in arrays.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = TensorProto(name=name, dims=array.shape, data_type=kind).SerializeToString()
        head = tensor + _RAW_DATA + _varint(array.nbytes)
        heads.append(_INITIALIZER + _varint(len(head) + array.nbytes) + head)
    nodes, rest = proto.graph.SerializeToString(), ModelProto()
    rest.CopyFrom(proto)
    rest.ClearField("graph")
    size = len(nodes) + sum(len(head) + array.nbytes for head, array in zip(heads, arrays.values(), strict=True))
    file.write(rest.SerializeToString() + _GRAPH + _varint(size) + nodes)
    for head, array in zip(heads, arrays.values(), strict=True):
        file.write(head)
        file.write(array.reshape(-1).view(np.uint8).data)


def write_properties(file: BinaryIO, properties: dict[str, str]) -> None:
    """The metadata, behind all else in the file: no truncation leaves them and loses something."""
    from onnx import ModelProto, helper

    last = ModelProto()
    helper.set_model_props(last, properties)
    file.write(last.SerializeToString())
