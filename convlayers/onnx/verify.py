"""The check of an export, repeated on a file anywhere."""

import hashlib
import math
from collections.abc import Callable
from os import PathLike, fspath
from time import perf_counter
from typing import Any

import numpy as np

from ..errors import ExportError, ExportMismatchError, FileFormatError
from ..randomness import generator
from ..tolerance import largest_error, tolerance
from . import certificate as certificates
from . import record
from .compare import BATCHES, relative_error, run_batches, scale_of
from .int8 import has_integer_operators, is_quantized, steps_apart
from .layerwise import first_changed
from .proto import read
from .report import OnnxReport, make_report
from .session import InputSpec, inputs_of, one_line, open_session, run, tensors

_SEED = 0
Evaluate = Callable[[dict[str, np.ndarray]], list[np.ndarray]]


def verify_onnx(path: str | PathLike[str]) -> OnnxReport:
    """Check an ONNX file with onnx.checker, run it with onnxruntime, and compare the outputs; no model is needed.

    A file of `export_onnx` is compared with what its model computed, which the file remembers together with the inputs
    and a fingerprint of each weight. A file of another program is compared with `onnx.reference.ReferenceEvaluator`, on
    batches of 1, 2 and 7 random inputs if its batch axis is symbolic. A file in int8, of `quantize_onnx` or another program, is
    compared in the same way with its own operators run one by one, in float: so a processor whose integer kernels lose
    sums is found where the file is used. `report.judge` says which it was.

    Raises `FileAccessError`; `FileFormatError` for a file that is empty, truncated, corrupt or something else;
    `ExportError` for one that onnx.checker or onnxruntime refuses, that keeps weights in other files, or whose inputs have
    open axes besides the batch; `ExportMismatchError` for one whose weights or outputs are not what they should be, or that is
    not the file of the certificate beside it. With a certificate, it names the first layer that differs.
    """
    place = fspath(path)
    data, proto = read(path)
    certificate = certificates.beside(path)
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    if record.KEY in properties:
        passed = record.read(properties[record.KEY], place)
        try:
            found = _against_record(passed, data, proto, place)
        except ExportMismatchError as error:
            layer = first_changed(certificate, passed, proto) if certificate else None
            raise (ExportMismatchError(f'{error}; the first layer that differs is "{layer}"') if layer else error) from None
    elif proto.producer_name == "convlayers":
        raise FileFormatError(f"{place} was written by convlayers, but its verification record is gone: truncated or changed")
    else:
        found = against_reference(data, proto, place)
    if certificate:
        found |= _certified(certificate, data, found, place)
    sizes = {"bytes": len(data), "parameters": sum(math.prod(tensor.dims) for tensor in proto.graph.initializer)}
    return make_report(place, proto, **sizes, **found)


def _against_record(passed: record.Record, data: bytes, proto: Any, place: str) -> dict[str, Any]:
    constants = record.fingerprints(proto)
    for name in [*passed.constants, *constants]:
        if constants.get(name) != passed.constants.get(name):
            raise ExportMismatchError(f'{place}: "{name}" is not what was exported; it was changed since')
    shapes = {name: expected.shape for name, expected in passed.outputs.items()}
    session, drawn = open_session(data, place), {"pixels": passed.pixels, "samples": passed.samples}
    actual, seconds = run_batches(session, passed.seed, passed.batches, passed.inputs, shapes, place, **drawn)
    errors = {name: relative_error(record.kept(actual[name]), e.values, e.scale) for name, e in passed.outputs.items()}
    _judge(errors, passed.bound, place, "the outputs recorded at its export")
    return {
        "batches": passed.batches,
        "judge": "the outputs recorded at its export",
        "errors": errors,
        "tolerance": passed.bound,
        "seconds": seconds,
    }


def _certified(certificate: certificates.Certificate, data: bytes, found: dict[str, Any], place: str) -> dict[str, Any]:
    """Compare a file with its certificate; what the report says of it."""
    beside = certificates.path_of(place)
    digest = hashlib.sha256(data).hexdigest()
    if (digest, len(data)) != (certificate.sha256, certificate.bytes):
        raise ExportMismatchError(
            f"{place} is not the file that {beside} certifies, one of the two was changed since: the SHA-256 of "
            f"its {len(data):,} bytes is {digest[:16]}..., not {certificate.sha256[:16]}... of {certificate.bytes:,}"
        )
    sizes = tuple(batch["size"] for batch in certificate.batches)
    if (certificate.errors.keys(), certificate.tolerance, sizes) != (
        found["errors"].keys(),
        found["tolerance"],
        found["batches"],
    ):
        raise FileFormatError(f"{beside} has other outputs, another tolerance or other batches than the record in {place}")
    here = certificates.versions()
    then = {name: certificate.versions.get(name, "none") for name in here}
    differences = [f"{name} {here[name]} here, {then[name]} at the export" for name in here if here[name] != then[name]]
    return {"certificate": str(beside), "differences": tuple(differences)}


def _judge(errors: dict[str, float], limit: float, place: str, judge: str) -> None:
    for name, error in errors.items():
        if not error <= limit:
            raise ExportMismatchError(
                f'{place}: output "{name}" of onnxruntime differs from {judge} by {error:.2g} of its largest value; '
                f"rounding explains {limit:.2g}"
            )


def against_reference(data: bytes, proto: Any, place: str) -> dict[str, Any]:
    """onnxruntime against another way to compute the file, batch by batch: what a report says of it."""
    session = open_session(data, place)
    specs = inputs_of(session, place)
    fixed = next((spec.batch for spec in specs if spec.batch is not None), None)
    batches = BATCHES if fixed is None else (fixed,)
    names = [output.name for output in session.get_outputs()]
    judge, evaluate = _reference(data, proto, names, place)
    seconds = 0.0
    errors, scales = dict.fromkeys(names, 0.0), dict.fromkeys(names, math.inf)
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
    _judge(errors, limit, place, judge)
    return {"batches": batches, "judge": judge, "errors": errors, "tolerance": limit, "seconds": seconds}


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
