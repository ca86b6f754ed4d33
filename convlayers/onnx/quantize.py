"""A float ONNX file in eight bits, by onnxruntime's own quantizer, with what that costs and what it brings."""

import tempfile
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, ExportError
from ..files import check_target, write_whole
from .evaluation import BATCH, Evaluation, Feeds, check_finite, samples_in
from .foreign import against_reference
from .int8 import in_int8, is_quantized, weighted_nodes
from .proto import check, read
from .quantization_report import QuantizationReport
from .quantizer import quantized
from .record import KEY
from .report import make_report, sizes
from .runtime import OnnxModel

# Below so many samples the ranges of the values are left to chance.
LEAST_SAMPLES = 16
# The first opset with a scale for each channel.
_OLDEST_OPSET = 13
# Of the difference of two shares.
_ROUNDING = 1e-9


def quantize_onnx(
    path: str | PathLike[str],
    calibration_data: Any,
    target: str | PathLike[str] | None = None,
    *,
    evaluation_data: tuple[Any, Any] | None = None,
    max_drop: float = 0.01,
    reduce_range: bool = True,
) -> QuantizationReport:
    """Write a float ONNX file, of `export_onnx` or another program, with weights and activations in eight bits.

    onnxruntime's static quantization (Jacob et al. 2018): every value becomes a multiple of a step,
    `scale (round(x / scale) + zero_point)`, in pairs of QuantizeLinear and DequantizeLinear around the operators (QDQ).
    Weights are int8 with a scale for each output channel, activations uint8 over the range that they take on the
    calibration data. Batch normalization goes into the convolution before it first.

    `calibration_data` is 16 samples or more, as the file takes them: an array `(N, ...)`, for several inputs a list or a dict
    of arrays, or a tuple `(x, y)` with labels too. Some hundreds that look like those to come are usual. `evaluation_data` is
    `(x, y)`, on which accuracy is measured before and after, by default the calibration data if it has labels. Labels
    are integers `(N,)`, or `(N, ...)` for a class a pixel; without any there is no accuracy, and `max_drop` has nothing to
    judge. `target` is by default `model.int8.onnx` beside `model.onnx`. `reduce_range` keeps weights to 7 bits: kernels of
    x86 processors before VNNI lose sums of larger ones, and the file is to give the same results everywhere. Without it,
    the eighth bit serves processors that are known to have VNNI, or ARM's.

    The file's metadata stays (labels, preprocessing) but for the record of its export's check, which is one of other
    weights. Before the file appears, onnx.checker has passed it and its fused integer kernels have been compared with its
    own operators run one by one in float; `verify_onnx` repeats that anywhere. On any error there is no new file.

    Raises `ExportError` for a file that is quantized already, has no convolution or matrix product, is older than opset 13,
    cannot be quantized, or loses more than `max_drop` of its accuracy (0.01 is one sample in a hundred);
    `ExportMismatchError` where this processor's integer kernels lose sums; `DataError` for too few samples, NaN, or labels
    that do not fit; `ShapeError` and `ArrayTypeError` for samples that the file does not take; `ConfigError` for a `max_drop`
    outside [0, 1] or a target that is the file itself; `FileAccessError`; and `FileFormatError` for what is no ONNX file.
    """
    if isinstance(max_drop, bool) or not isinstance(max_drop, int | float) or not 0 <= max_drop <= 1:
        raise ConfigError(f"max_drop is a share of the samples, from 0 to 1; got {max_drop!r}")
    place = _target(path, target)
    data, proto = read(path)
    _check_float(proto, fspath(path))
    before = OnnxModel(path)
    x, labels = _pair(calibration_data, "calibration_data") if isinstance(calibration_data, tuple) else (calibration_data, None)
    feeds = _calibration(before, x)
    evaluation = Evaluation(before, *((x, labels) if evaluation_data is None else _pair(evaluation_data, "evaluation_data")))
    with tempfile.TemporaryDirectory(prefix="convlayers-") as folder:
        made = quantized(data, feeds, bool(reduce_range), Path(folder), fspath(path))
        _finish(made, proto)
        written = made.SerializeToString()
        check(written, place)
        found = against_reference(written, made, place)
        (Path(folder) / "finished.onnx").write_bytes(written)
        costs = evaluation.of(OnnxModel(Path(folder) / "finished.onnx"))
    report = QuantizationReport(
        source=fspath(path),
        source_bytes=len(data),
        samples=samples_in(feeds),
        weighted=len(weighted_nodes(made)),
        quantized=in_int8(made),
        check=make_report(place, made, **sizes(written, made), **found),
        **costs,
    )
    _judge(report, max_drop)
    write_whole(place, written)
    return report


# The door


def _target(path: str | PathLike[str], target: str | PathLike[str] | None) -> str:
    place = fspath(Path(path).with_suffix(".int8.onnx") if target is None else target)
    if check_target(place) == Path(path).resolve():
        raise ConfigError(f"quantize_onnx writes a new file, and {place} is the float one; give another target")
    return place


def _check_float(proto: Any, place: str) -> None:
    if is_quantized(proto):
        raise ExportError(f"{place} is quantized already; quantize the float file that it was made from")
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST_OPSET:
        raise ExportError(
            f"{place} is of opset {opset}, and a scale for each channel came with opset {_OLDEST_OPSET}; export it anew"
        )


def _pair(given: Any, name: str) -> tuple[Any, Any]:
    if not isinstance(given, tuple) or len(given) != 2:
        raise DataError(f"{name} must be a tuple (x, y) of samples and labels; got {type(given).__name__}")
    return given


def _calibration(model: OnnxModel, x: Any) -> Feeds:
    feeds = model.feeds(x, BATCH)
    if (count := samples_in(feeds)) < LEAST_SAMPLES:
        raise DataError(f"calibration_data: ranges of values need {LEAST_SAMPLES} samples at least; got {count}")
    check_finite(feeds, "calibration_data")
    return feeds


# The file


def _finish(made: Any, source: Any) -> None:
    """The metadata of the float file, and no more imports of operators than are used."""
    kept = [entry for entry in source.metadata_props if entry.key != KEY]
    del made.metadata_props[:]
    made.metadata_props.extend(kept)
    domains = {entry.domain for entry in source.opset_import} | {node.domain for node in made.graph.node}
    imports = [entry for entry in made.opset_import if entry.domain in domains]
    del made.opset_import[:]
    made.opset_import.extend(imports)


def _judge(report: QuantizationReport, max_drop: float) -> None:
    if report.accuracy_before is None or report.accuracy_after is None:
        return
    if report.accuracy_before - report.accuracy_after > max_drop + _ROUNDING:
        raise ExportError(
            f"{report.path}: in int8 the accuracy on {report.evaluated} samples is {report.accuracy_after:.4f} instead of "
            f"{report.accuracy_before:.4f}, and max_drop allows {max_drop:g}; calibrate on more samples, or allow more"
        )
