"""What a check of an ONNX file found."""

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class OnnxReport:
    """The result of `export_onnx` and of `verify_onnx`; `str()` says it in one paragraph.

    `errors` holds the largest error of each output over all batches, relative to the largest value of that output, and
    `layers` the same after each layer, by name (empty where only the file is at hand). `tolerance` is the bound on
    `errors`. `judge` names what onnxruntime was compared with.
    """

    path: str
    opset: int
    ir_version: int
    bytes: int
    nodes: int
    parameters: int
    batches: tuple[int, ...]
    judge: str
    errors: dict[str, float]
    tolerance: float
    layers: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        worst = max(self.errors, key=lambda name: self.errors[name])
        *first, last = map(str, self.batches)
        batches = f"batches of {', '.join(first)} and {last}" if first else f"a batch of {last}"
        layers = f"{len(self.layers)} layers, " if self.layers else ""
        return (
            f"{self.path}: ONNX opset {self.opset}, {layers}{self.nodes} nodes, {self.parameters:,} parameters, "
            f"{self.bytes:,} bytes. onnxruntime agrees with {self.judge} on {batches} random inputs: largest relative error "
            f"{self.errors[worst]:.1e} ({worst}), tolerance {self.tolerance:.1e}."
        )


@dataclass(frozen=True)
class QuantizationReport:
    """The result of `quantize_onnx`; `str()` says it in one paragraph.

    `quantized` of the `weighted` operators (convolutions, products of matrices) compute in eight bits. `samples` were
    calibrated on and `evaluated` compared: `accuracy_before` and `accuracy_after` are shares of right answers, None without
    labels; the differences of the outputs are relative to the largest value of the float file's. `seconds_before` and
    `seconds_after` are medians for one `batch` in onnxruntime, turn by turn. `check` is the new file's own check.
    """

    source: str
    source_bytes: int
    samples: int
    weighted: int
    quantized: int
    evaluated: int
    accuracy_before: float | None
    accuracy_after: float | None
    largest_difference: float
    mean_difference: float
    batch: int
    seconds_before: float
    seconds_after: float
    check: OnnxReport

    @property
    def path(self) -> str:
        """The new file."""
        return self.check.path

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.check.bytes

    def __str__(self) -> str:
        accuracy = "no labels, so no accuracy"
        if self.accuracy_before is not None:
            accuracy = f"accuracy {self.accuracy_after:.4f} instead of {self.accuracy_before:.4f}"
        return (
            f"{self.path}: {self.source} in int8, {self.quantized} of {self.weighted} convolutions and matrix products, "
            f"calibrated on {self.samples:,} samples; {self.bytes:,} bytes instead of {self.source_bytes:,}. "
            f"On {self.evaluated:,} samples: {accuracy}; outputs differ by {self.largest_difference:.1e} of the largest value, "
            f"by {self.mean_difference:.1e} on average; a batch of {self.batch} takes {self.seconds_after * 1e3:.3g} ms in "
            f"onnxruntime instead of {self.seconds_before * 1e3:.3g}. Its integer kernels agree with {self.check.judge}: "
            f"largest relative error {max(self.check.errors.values()):.1e}, tolerance {self.check.tolerance:.1e}."
        )


def make_report(path: object, data: bytes, proto: Any, **found: Any) -> OnnxReport:
    """The report on a file of these bytes, with what a check found."""
    return OnnxReport(
        path=str(path),
        opset=next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0),
        ir_version=proto.ir_version,
        bytes=len(data),
        nodes=len(proto.graph.node),
        parameters=sum(math.prod(tensor.dims) for tensor in proto.graph.initializer),
        **found,
    )
