"""A model as an ONNX file that onnxruntime has agreed with."""

import json
from bisect import bisect_left
from os import PathLike, fspath
from typing import Any

import numpy as np

from ..errors import ArrayTypeError, ConfigError, ExportError, ExportMismatchError, located
from ..files import check_target, write_whole
from ..layer import has_to_onnx
from ..model import Model
from . import record
from .compare import BATCHES, as_given, bound, draw, expected_outputs, lengths, relative_error, run_batches
from .graph import GraphBuilder
from .proto import build, check, compare_shapes, declare, with_layers
from .report import OnnxReport, make_report
from .session import check_opset, open_session, run

_SEED = 0


def export_onnx(
    model: Model,
    path: str | PathLike[str],
    opset: int = 17,
    *,
    labels: Any = None,
    preprocessing: Any = None,
) -> OnnxReport:
    """Write `model` to `path` as ONNX, after onnxruntime has computed the same outputs from it.

    The batch axis is symbolic, "N". Inputs are named as in `model.input_names`, by default `input` (`input_1`, ... for
    several), outputs `output` alike, and parameters as in `model.parameters()`; those of a shared layer are there once. The
    export is that of inference: dropout is the identity. `opset` goes from 13 to the newest that the installed onnxruntime
    runs. `labels` (a list, one for each output of a classifier) and `preprocessing` are JSON values for the file's metadata,
    by default `model.metadata["labels"]` and `["preprocessing"]`.

    Before the file appears, `onnx.checker` has passed it with strict shape inference, every layer's output has been
    compared with the model's, and the file itself has been run on batches of 1, 2 and 7 random inputs; inputs, measure
    and bound are those of `convlayers/onnx/compare.py`. On any error there is no new file, and an old one stays as it is.

    Raises `ExportError` for a layer that has no `to_onnx`, a graph that onnx or onnxruntime refuses, or constants of over
    2 GB; `ExportMismatchError` with the first layer whose output differs; `ConfigError` for an opset out of range or
    metadata that is not JSON; `FileAccessError` for a target that cannot be written.
    """
    from .. import __version__

    _check_model(model)
    metadata = {"convlayers_version": __version__, **_metadata(model, labels, preprocessing)}
    check_opset(opset)
    check_target(path)
    graph = GraphBuilder(model, opset)
    proto = build(graph, __version__)
    compare_shapes(proto, graph)
    declare(proto, graph)
    layers = _compare_layers(model, graph, proto, batch=2)
    expected, limit = expected_outputs(model, _SEED)
    data = _with_record(proto, graph, metadata, expected, limit)
    check(data, "the export")
    errors = _compare_file(model, graph, proto, data, expected, limit)
    write_whole(path, data)
    found = {"batches": BATCHES, "judge": "the model", "errors": errors, "tolerance": limit, "layers": layers}
    return make_report(fspath(path), data, proto, **found)


def _check_model(model: Model) -> None:
    if not isinstance(model, Model):
        raise ArrayTypeError(f"export_onnx takes a convlayers model; got {type(model).__name__}")
    for step in model.steps:
        if not has_to_onnx(step.layer):
            raise ExportError(f"{step.place} cannot be exported: it has no to_onnx")


def _metadata(model: Model, labels: Any, preprocessing: Any) -> dict[str, str]:
    result = {}
    for key, given in (("labels", labels), ("preprocessing", preprocessing)):
        value = model.metadata.get(key) if given is None else given
        if value is None:
            continue
        try:
            result[key] = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"{key} must be JSON values; got {value!r} ({error})") from None
    labels = labels if labels is not None else model.metadata.get("labels")
    shapes = [model.value_shapes[output] for output in model.outputs]
    if isinstance(labels, list | tuple) and len(shapes) == len(shapes[0]) == 1 and len(labels) != shapes[0][0]:
        raise ConfigError(f"labels must name each of the model's {shapes[0][0]} outputs; got {len(labels)}")
    return result


def _with_record(proto: Any, graph: GraphBuilder, metadata: dict[str, str], expected: list[np.ndarray], limit: float) -> bytes:
    from onnx import helper

    names = [value.name for value in graph.outputs]
    passed = record.Record(
        seed=_SEED,
        batches=BATCHES,
        bound=limit,
        inputs={value.name: value.shape for value in graph.inputs},
        outputs={name: record.expect(array) for name, array in zip(names, expected, strict=True)},
        constants=record.fingerprints(proto),
    )
    # Last in the file, so that no truncation leaves the record and loses something else.
    helper.set_model_props(proto, {**metadata, record.KEY: record.write(passed)})
    return proto.SerializeToString()


def _compare_layers(model: Model, graph: GraphBuilder, proto: Any, batch: int) -> dict[str, float]:
    """The largest error after each layer; `ExportMismatchError` names the first one above its bound."""
    if not graph.layers:
        return {}
    inputs = draw(_SEED, batch, model.input_shapes)
    feeds = {value.name: x for value, x in zip(graph.inputs, inputs, strict=True)}
    try:
        actual = _run_as_written(with_layers(proto, graph), feeds)
    except ExportError as error:
        raise located(error, _first_refused(graph, feeds)) from error
    narrow = model.trace(as_given(inputs))
    wide = model.trace(as_given([x.astype(np.float64) for x in inputs]))
    errors = {}
    for layer, found, length, (name, expected), (_, exact) in zip(
        graph.layers, actual, lengths(model), narrow, wide, strict=True
    ):
        errors[name] = relative_error(found, expected)
        _judge(layer.place, errors[name], bound(length, expected, exact), f"a batch of {batch}")
    return errors


def _run_as_written(data: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    check(data, "the export")
    return run(open_session(data, "the export", as_written=True), feeds, "the export")


def _first_refused(graph: GraphBuilder, feeds: dict[str, np.ndarray]) -> str:
    """The place of the first layer up to which onnx or onnxruntime refuses the graph; their own errors seldom say it."""

    def refused(count: int) -> bool:
        part = graph.first(count)
        proto = build(part, "")
        declare(proto, part)
        try:
            _run_as_written(proto.SerializeToString(), feeds)
        except ExportError:
            return True
        return False

    return graph.layers[bisect_left(range(1, len(graph.layers)), True, key=refused)].place


def _compare_file(
    model: Model, graph: GraphBuilder, proto: Any, data: bytes, expected: list[np.ndarray], limit: float
) -> dict[str, float]:
    """The largest error of each output of the file as it will be written; `ExportMismatchError` names a layer."""
    session = open_session(data, "the export")
    inputs = {value.name: value.shape for value in graph.inputs}
    shapes = {value.name: value.shape for value in graph.outputs}
    actual = run_batches(session, _SEED, BATCHES, inputs, shapes, "the export")
    errors = {name: relative_error(actual[name], array) for name, array in zip(shapes, expected, strict=True)}
    if any(not error <= limit for error in errors.values()):
        for batch in BATCHES:
            _compare_layers(model, graph, proto, batch)
    for value in graph.outputs:
        _judge(value.place, errors[value.name], limit, f"batches of {', '.join(map(str, BATCHES))}")
    return errors


def _judge(place: str, error: float, limit: float, batch: str) -> None:
    if not error <= limit:
        raise ExportMismatchError(
            f"{place}: onnxruntime's output differs from the layer's by {error:.2g} of its largest value on {batch} "
            f"random inputs; rounding explains {limit:.2g}"
        )
