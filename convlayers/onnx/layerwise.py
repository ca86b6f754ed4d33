"""Where a graph and its model part: layer by layer, every operator by itself, the weights fed from the model's memory."""

from bisect import bisect_left
from typing import Any

import numpy as np

from ..errors import ExportError, ExportMismatchError
from ..model import Model
from ..tolerance import tolerance
from .certificate import Certificate
from .compare import SAMPLES, as_given, bound, draw, lengths, relative_error
from .graph import GraphBuilder
from .proto import build, check, declare, weights, with_layers
from .record import Record, kept
from .session import open_session, run

_PLACE = "the export"


def compare_layers(
    model: Model, graph: GraphBuilder, proto: Any, feeds: dict[str, np.ndarray], inputs: list[np.ndarray]
) -> dict[str, float]:
    """The largest error after each layer; `ExportMismatchError` names the first one above its bound.

    The graph computes from `feeds`, the model from `inputs`, which mean the same.
    """
    if not graph.layers:
        return {}
    actual = _run_as_written(with_layers(proto, graph), graph, feeds)
    steps = {step.name: length for step, length in zip(model.steps, lengths(model), strict=True)}
    limits = {name: tolerance(np.float32, length) for name, length in steps.items()}
    found = {layer.step: y for layer, y in zip(graph.layers, actual, strict=True)}
    errors = {name: relative_error(found[name], y) for name, y in model.trace(as_given(inputs))}
    if any(not error <= limits[name] for name, error in errors.items()):
        narrow, wide = (model.trace(as_given([x.astype(dtype) for x in inputs])) for dtype in (np.float32, np.float64))
        limits = {name: bound(steps[name], y, exact) for (name, y), (_, exact) in zip(narrow, wide, strict=True)}
    for layer in graph.layers:
        judge(layer.place, errors[layer.step], limits[layer.step], f"a batch of {len(inputs[0])}")
    return errors


def judge(place: str, error: float, limit: float, batch: str) -> None:
    """`ExportMismatchError` for an error above its bound."""
    if not error <= limit:
        raise ExportMismatchError(
            f"{place}: onnxruntime's output differs from the layer's by {error:.2g} of its largest value on {batch} "
            f"random inputs; rounding explains {limit:.2g}"
        )


def _run_as_written(whole: Any, graph: GraphBuilder, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    data = whole.SerializeToString()
    check(data, _PLACE)
    return run(open_session(data, _PLACE, as_written=True), {**feeds, **weights(graph)}, _PLACE)


def first_refused(graph: GraphBuilder, feeds: dict[str, np.ndarray]) -> str | None:
    """The place of the first layer up to which onnx or onnxruntime refuses the graph, if they do; their own errors seldom
    say it."""

    def refused(count: int) -> bool:
        part = graph.first(count)
        proto = build(part, "")
        declare(proto, part)
        try:
            _run_as_written(with_layers(proto, part), part, feeds)
        except ExportError:
            return True
        return False

    count = len(graph.layers)
    if not count or not refused(count):
        return None
    return graph.layers[bisect_left(range(1, count), True, key=refused)].place


def first_changed(certificate: Certificate, passed: Record, proto: Any) -> str | None:
    """The name of the first layer whose values are not those of the certificate, None where they all are or cannot be had.

    `proto` is the file's, with its weights; the layers' values become its outputs.
    """
    from onnx import helper

    del proto.graph.output[:]
    layers = certificate.layers.items()
    proto.graph.output.extend(helper.make_empty_tensor_value_info(values.value) for _, values in layers)
    feeds = dict(zip(passed.inputs, draw(passed.seed, SAMPLES, list(passed.inputs.values()), passed.pixels), strict=True))
    try:
        session = open_session(proto.SerializeToString(), _PLACE, as_written=True)
        actual = run(session, feeds, _PLACE)
    except ExportError:  # a value is gone
        return None
    for (name, expected), found in zip(layers, actual, strict=True):
        if not relative_error(kept(found, len(expected.values)), expected.values, expected.scale) <= certificate.tolerance:
            return name
    return None
