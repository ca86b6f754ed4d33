"""A file that does not remember what it should compute, compared with another way to compute it."""

import math
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from ..errors import ExportError
from ..randomness import generator
from ..shapes import features
from ..tolerance import largest_error, tolerance
from .compare import BATCHES, judge, scale_of
from .int8 import has_integer_operators, is_quantized, steps_apart
from .session import MOST_FED, InputSpec, inputs_of, one_line, open_session, run, tensors

_SEED = 0

Evaluate = Callable[[dict[str, np.ndarray]], list[np.ndarray]]


def against_reference(data: bytes, proto: Any, place: str) -> dict[str, Any]:
    """onnxruntime against another way to compute the file, batch by batch: what a report says of it.

    That is onnx's reference evaluator; for a file in int8 it is onnxruntime without fusing.
    """
    session = open_session(data, place)
    specs = inputs_of(session, place)
    fixed = next((spec.batch for spec in specs if spec.batch is not None), None)
    batches = BATCHES if fixed is None else (fixed,)
    fed = max(batches) * sum(features(spec.shape) for spec in specs)
    if fed > MOST_FED:
        raise ExportError(f"{place}: a batch of {max(batches)} holds {fed} values, more than the {MOST_FED} that are fed")
    names = [output.name for output in session.get_outputs()]
    reference, evaluate = _reference(data, proto, names, place)
    errors, scales, seconds = dict.fromkeys(names, 0.0), dict.fromkeys(names, math.inf), 0.0
    for batch in batches:
        feeds = {spec.name: _drawn(spec, number, batch) for number, spec in enumerate(specs)}
        begun = perf_counter()
        actual = run(session, feeds, place)
        seconds += perf_counter() - begun
        for name, a, e in zip(names, actual, evaluate(feeds), strict=True):
            errors[name] = max(errors[name], largest_error(a, e))
            scales[name] = min(scales[name], max(1.0, scale_of(e)))
    steps = steps_apart(proto)
    limit = tolerance(np.float32, _length(proto)) + max(steps[name] / scales[name] for name in names)
    judge(errors, limit, place, reference)
    return {"batches": batches, "judge": reference, "errors": errors, "tolerance": limit, "seconds": seconds}


def _reference(data: bytes, proto: Any, names: list[str], place: str) -> tuple[str, Evaluate]:
    """What to compare a file with, in words and as a function."""
    if is_quantized(proto) and not has_integer_operators(proto):
        # Fused, the operators and the steps around them are computed in integers; apart, each one in float.
        session = open_session(data, place, as_written=True)
        return "its operators run one by one in float", lambda feeds: run(session, feeds, place)
    return "onnx's reference evaluator", lambda feeds: _evaluated(proto, feeds, names, place)


def _drawn(spec: InputSpec, number: int, batch: int) -> np.ndarray:
    uniform = generator(_SEED, "onnx foreign input", number, batch).random((batch, *spec.shape))
    # 0 and 1 are valid whatever an integer means: an index, a flag, a pixel.
    return (uniform * 2 - 1 if spec.dtype.kind == "f" else uniform >= 0.5).astype(spec.dtype)


def _evaluated(proto: Any, feeds: dict[str, np.ndarray], names: list[str], place: str) -> list[np.ndarray]:
    from onnx.reference import ReferenceEvaluator

    try:
        with np.errstate(all="ignore"):
            results: Any = ReferenceEvaluator(proto).run(None, feeds)
    except Exception as error:  # whatever an operator raises, or RuntimeError for one that it does not know
        raise ExportError(f"{place}: onnx's reference evaluator cannot run it: {one_line(error)}") from error
    return tensors(results, names, place)


def _length(proto: Any) -> int:
    """The products of all sums behind one output: each weight's axes but its shortest end, and one for each node."""
    weights = [tensor.dims for tensor in proto.graph.initializer if len(tensor.dims) > 1 and min(tensor.dims) > 0]
    return len(proto.graph.node) + sum(math.prod(dims) // min(dims[0], dims[-1]) for dims in weights)
