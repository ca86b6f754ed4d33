"""The check of an export, repeated on a file anywhere."""

import hashlib
from os import PathLike, fspath
from typing import Any

from ..errors import ExportMismatchError, FileFormatError
from . import certificate as certificates
from . import record
from .compare import judge, relative_error, run_batches
from .foreign import against_reference
from .layerwise import first_changed
from .proto import read
from .report import OnnxReport, make_report, sizes
from .session import open_session


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
    return make_report(place, proto, **sizes(data, proto), **found)


def _against_record(passed: record.Record, data: bytes, proto: Any, place: str) -> dict[str, Any]:
    constants = record.fingerprints(proto)
    for name in [*passed.constants, *constants]:
        if constants.get(name) != passed.constants.get(name):
            raise ExportMismatchError(f'{place}: "{name}" is not what was exported; it was changed since')
    shapes = {name: expected.shape for name, expected in passed.outputs.items()}
    session, drawn = open_session(data, place), {"pixels": passed.pixels, "samples": passed.samples}
    actual, seconds = run_batches(session, passed.seed, passed.batches, passed.inputs, shapes, place, **drawn)
    errors = {name: relative_error(record.kept(actual[name]), e.values, e.scale) for name, e in passed.outputs.items()}
    judge(errors, passed.bound, place, "the outputs recorded at its export")
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
