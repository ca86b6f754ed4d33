"""`import_onnx`."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError, ConvlayersError, FileFormatError, OnnxImportError
from ...layer import Shape
from ...model import Model
from ...model.graph import sample_shape
from ...shapes import features
from ..limits import MOST_AXES, MOST_VALUES
from . import inlining, reading
from .importer import Importer


def import_onnx(
    source: str | os.PathLike[str] | bytes,
    *,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    external_data: bool = False,
) -> Model:
    """The network in an ONNX file, or in its bytes, as a `Model` that can be trained, frozen, changed and exported.

    Axis 0 of each input is the batch, of any size afterwards. Weights become float32 parameters, running statistics of
    BatchNormalization stay buffers, fixed numbers become part of a layer's configuration; shapes that the file computes are
    computed here, once. Layers are named as the file's operators, with `_` for letters that a name cannot have. `labels` and
    `preprocessing` in the file's metadata come along in `model.metadata`.

    `input_shape` is that of a sample, without the batch axis, where the file leaves it open: a shape, or one for each input
    by its name. `external_data` reads weights that the file keeps in other files, below its own folder only.

    Raises `OnnxImportError` with every operator in the way; `FileFormatError` for what is no whole ONNX file, or too large;
    `FileAccessError`; `ConfigError` for an `input_shape` that contradicts the file.
    """
    proto, place = reading.parse(source)
    folder = Path(source).parent if external_data and isinstance(source, str | os.PathLike) else None
    graph = prepare(proto, place)
    wishes = _wishes(input_shape, [entry.name for entry in graph.inputs], place)
    shapes = {}
    readers: dict[str, set[str]] = {}
    for node in graph.nodes:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    for entry in graph.inputs:
        _check_type(entry, readers.get(entry.name, set()), f'{place}: input "{entry.name}"')
        shapes[entry.name] = _sample(entry, wishes.get(entry.name), place)
    importer = graph.importer(shapes, folder)
    importer.run(graph.nodes)
    model = importer.model(graph.outputs)
    model.metadata = _metadata(proto)
    return model


class Prepared:
    """A checked graph: the operators that its outputs need, in order, and the inputs that are no weights."""

    def __init__(self, proto: Any, place: str) -> None:
        self.proto, self.place = proto, place
        self.outputs = [entry.name for entry in proto.graph.output]
        if not self.outputs:
            raise FileFormatError(f"{place}: its graph has no outputs")
        weights = {t.name for t in proto.graph.initializer} | {s.values.name for s in proto.graph.sparse_initializer}
        self.needed = set(self.outputs)
        kept = []
        for node in reversed(proto.graph.node):
            if self.needed.intersection(node.output):
                kept.append(node)
                self.needed.update(node.input)
                self.needed.update(_captured(node))
        self.nodes = kept[::-1]
        self.inputs = [e for e in proto.graph.input if e.name in self.needed and e.name not in weights]
        self.opsets = {("" if e.domain == "ai.onnx" else e.domain): e.version for e in proto.opset_import}

    def importer(self, shapes: dict[str, Shape], folder: Path | None, *, batch: bool = True) -> Importer:
        """An importer for samples of these shapes, with the weights at hand."""
        constants = reading.Weights(self.place, folder).constants(self.proto.graph, self.needed)
        layers = {f.name: f for f in self.proto.functions if f.domain == inlining.LAYERS}
        sizes = [e.type.tensor_type.shape.dim[:1] for e in self.inputs]
        known = next((dim[0].dim_value for dim in sizes if dim and dim[0].HasField("dim_value")), None)
        return Importer(self.place, self.opsets, shapes, constants, layers, self.needed, batch=batch, file_batch=known)


def prepare(proto: Any, place: str) -> Prepared:
    """The checked graph of a parsed file, its functions written out."""
    reading.check(proto, place)
    _check_opsets(proto, place)
    return Prepared(inlining.written_out(proto, place), place)


def _check_opsets(proto: Any, place: str) -> None:
    from onnx import defs

    newest = defs.onnx_opset_version()
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx") and not 1 <= entry.version <= newest:
            raise OnnxImportError(f"{place} has opset {entry.version}; the installed onnx knows 1 to {newest}")


def _captured(node: Any) -> set[str]:
    """What graphs inside an operator read of the graph around them."""
    return {
        name for a in node.attribute for g in (a.g, *a.graphs) for inner in g.node for name in (*inner.input, *_captured(inner))
    }


def _sample(entry: Any, given: Any, place: str) -> Shape:
    """The shape of one sample of an input: the file's, with `given` where that is open."""
    where = f'{place}: input "{entry.name}"'
    tensor = entry.type.tensor_type
    said = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim] if tensor.HasField("shape") else None
    if given is None and (not said or None in said[1:]):
        shown = "unknown" if said is None else f"({', '.join('?' if n is None else str(n) for n in said)})"
        raise OnnxImportError(f"{where} has the shape {shown}; give input_shape, that of a sample without the batch axis")
    try:
        shape = sample_shape(_known(said) if given is None else tuple(given), "its shape")
    except ConvlayersError as error:
        raise OnnxImportError(f"{where} needs a batch axis and at least one more: {error}") from error
    if features(shape) > MOST_VALUES or len(shape) > MOST_AXES:
        raise OnnxImportError(f"{where}: a sample of shape {shape!s:.200} is too large")
    fits = said is None or (len(said) == len(shape) + 1 and all(n in (None, m) for n, m in zip(said[1:], shape, strict=True)))
    if not fits:
        raise ConfigError(f"{where} has the shape {said}; input_shape {shape} contradicts that")
    return shape


def _known(said: list[int | None] | None) -> tuple[int, ...]:
    """The sizes behind the batch axis that the file gives."""
    return tuple(n for n in (said or ())[1:] if n is not None)


def _wishes(given: Any, names: Sequence[str], place: str) -> Mapping[str, Any]:
    """`input_shape` by the inputs' names."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        if len(names) != 1:
            raise ConfigError(f"{place} has the inputs {', '.join(names)}; input_shape must be a dict by their names")
        return {names[0]: given}
    if unknown := given.keys() - set(names):
        raise ConfigError(f"input_shape names {', '.join(map(str, unknown))}; {place} has the inputs {', '.join(names)}")
    return given


def _check_type(entry: Any, readers: set[str], where: str) -> None:
    """An input holds floats, or integers that a Cast turns into them, as pixels are."""
    from onnx import TensorProto

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    kind = entry.type.tensor_type.elem_type
    if entry.type.WhichOneof("value") == "tensor_type" and (kind in floats or readers <= {"Cast", "Shape"}):
        return
    said = TensorProto.DataType.Name(kind).lower() if kind in TensorProto.DataType.values() else "of an unknown type"
    raise OnnxImportError(f"{where} is {said}; a model takes tensors of floats, or of integers that a Cast reads")


def _metadata(proto: Any) -> dict[str, Any]:
    """`labels` and `preprocessing`, where they are JSON."""
    found = {}
    for entry in proto.metadata_props:
        if entry.key in ("labels", "preprocessing"):
            try:
                found[entry.key] = json.loads(entry.value)
            except (ValueError, RecursionError):  # another program's, in a form of its own
                found[entry.key] = entry.value
    return found
