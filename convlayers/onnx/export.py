"""A model as an ONNX file that onnxruntime has agreed with."""

import json
from os import PathLike, fspath
from os.path import basename, getsize
from typing import Any

from ..errors import ArrayTypeError, ConfigError, ExportError
from ..files import check_target, writing
from ..layer import has_to_onnx
from ..model import Model
from . import certificate as certificates
from . import record
from .compare import SAMPLES, as_given
from .folding import folded
from .graph import GraphBuilder
from .preprocessing import Preprocessing
from .proof import SEED, Draft, Proof, prove
from .proto import as_written, build, check, compare_shapes, declare, sketch
from .report import OnnxReport, make_report
from .session import check_opset
from .sizes import resized_models
from .stream import write, write_properties

_JUDGE = "the model"


def export_onnx(
    model: Model,
    path: str | PathLike[str],
    opset: int = 17,
    *,
    labels: Any = None,
    preprocessing: Any = None,
    certificate: bool = False,
    fold_batchnorm: bool = False,
    dynamic_image: bool = False,
) -> OnnxReport:
    """Write `model` to `path` as ONNX, after onnxruntime has computed the same outputs from it.

    The batch axis is symbolic, "N". Inputs are named as in `model.input_names`, by default `input` (`input_1`, ... for
    several), outputs `output` alike, and parameters as in `model.parameters()`; those of a shared layer are there once. The
    export is that of inference: dropout is the identity. `opset` goes from 13 to the newest that the installed onnxruntime
    runs. `labels` (a list, one for each output of a classifier) and `preprocessing` are JSON values for the file's metadata,
    by default `model.metadata["labels"]` and `["preprocessing"]`.

    A `cl.Preprocessing` is built into the graph, which then takes raw pixels. With `certificate`, `model.verify.json` appears
    beside `model.onnx`: digest, versions, what was compared and with what result (`docs/onnx.md`); both files or neither.
    `fold_batchnorm` takes batch normalization into the weights of the convolution, transposed convolution or dense layer
    before it where nobody else reads the value in between; the judge is still the model as it is. `dynamic_image` leaves the
    image's size open, axes "height" and "width", for a network that takes images of any size: no dense layer behind a
    flattened image. The file is then compared at two other sizes too, with the same layers at those; the report and the record
    are of the model's own.

    Before the file appears, `onnx.checker` has passed its graph with strict shape inference, and onnxruntime has run the file
    itself on batches of 1, 2 and 7 random inputs (1, 2 and 3 where one takes over 2^30 multiply-adds), with the model's
    outputs. Layers are compared one by one where that costs
    little, where the outputs cannot tell, and where they differ; inputs, measure, bound and that rule are those of
    `convlayers/onnx/compare.py`. On any error there is no new file, and an old one stays as it is.

    Raises `ExportError` for a layer that has no `to_onnx`, a graph that onnx or onnxruntime refuses, or constants of over
    2 GB; `ExportMismatchError` with the first layer whose output differs; `ConfigError` for an opset out of range or
    metadata that is not JSON; `FileAccessError` for a target that cannot be written.
    """
    from .. import __version__

    _check_model(model)
    pixels = preprocessing if isinstance(preprocessing, Preprocessing) else None
    if pixels:
        preprocessing, labels = pixels.describe(), pixels.labels if labels is None else labels
    metadata = {"convlayers_version": __version__, **_metadata(model, labels, preprocessing)}
    check_opset(opset)
    check_target(path)
    sizes = [model, *(resized_models(model) if dynamic_image else [])]
    models = [pixels.around(each) if pixels else each for each in sizes]
    draft, *others = _drafted(models, fold_batchnorm, opset, pixels is not None)
    beside = certificates.path_of(path) if certificate else None
    with writing(path, *([beside] if beside else [])) as [file, *second]:
        write(file, draft.proto, draft.graph.constants)
        file.flush()
        proof = prove(draft, file.name)
        for other in others:
            prove(other, file.name)
        write_properties(file, {**metadata, record.KEY: record.write(_record(draft, proof))})
        file.flush()
        size = file.tell()
        if second:
            second[0].write(certificates.write(_certificate(draft, proof, fspath(path), file.name)))
    return _report(draft, proof, fspath(path), size, str(beside) if beside else None)


def _report(draft: Draft, proof: Proof, path: str, size: int, certificate: str | None) -> OnnxReport:
    return make_report(
        path,
        draft.proto,
        bytes=size,
        parameters=sum(array.size for array in draft.graph.constants.values()),
        batches=draft.batches,
        judge=_JUDGE,
        errors=proof.errors,
        tolerance=proof.bound,
        layers=proof.layers,
        seconds=proof.seconds,
        certificate=certificate,
    )


def _drafted(models: list[Model], fold: bool, opset: int, pixels: bool) -> list[Draft]:
    """A draft for the model at each size, the first its own; one graph, which onnx has passed without the weights' values."""
    from .. import __version__

    written = [folded(model) if fold else model for model in models]
    graph = GraphBuilder(written[0], opset, written[1:], pixels)
    proto = build(graph, __version__)
    drafts = [Draft(model, other, graph, proto) for model, other in zip(models, written, strict=True)]
    compare_shapes(sketch(proto, graph), graph)
    declare(proto, graph)
    try:
        check(sketch(proto, graph).SerializeToString(), "the export")
    except ExportError as error:
        raise drafts[0].refused(error) from error
    return drafts


def _record(draft: Draft, proof: Proof) -> record.Record:
    return record.Record(
        seed=SEED,
        batches=draft.batches,
        bound=proof.bound,
        inputs=draft.inputs,
        outputs={name: record.expect(array) for name, array in proof.expected.items()},
        constants={name: record.fingerprint(as_written(array)) for name, array in draft.graph.constants.items()},
        pixels=draft.pixels,
    )


def _certificate(draft: Draft, proof: Proof, path: str, written: str) -> certificates.Certificate:
    """The certificate of the file that will be at `path` and lies, whole, at `written`."""
    names = [layer.name for layer in draft.graph.layers]
    trace = draft.written.trace(as_given(draft.drawn(SAMPLES)))
    return certificates.Certificate(
        file=basename(path),
        bytes=getsize(written),
        sha256=certificates.digest(written),
        versions=certificates.versions(),
        judge=_JUDGE,
        batches=tuple({"size": batch, "seed": SEED} for batch in draft.batches),
        errors=proof.errors,
        tolerance=proof.bound,
        tolerance_rule=proof.rule,
        seconds=proof.seconds,
        layers={step: certificates.layer_values(name, y) for name, (step, y) in zip(names, trace, strict=True)},
    )


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
