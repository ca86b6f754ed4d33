"""What a check of an ONNX file found."""

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class OnnxReport:
    """The result of `export_onnx` and of `verify_onnx`; `str()` says it in one paragraph.

    `errors` holds the largest error of each output over all batches, relative to the largest value of that output, and
    `layers` the same after each layer, by name (empty where the outputs were enough, or only the file is at hand).
    `tolerance` is the bound on `errors`. `judge` names what onnxruntime was compared with, `seconds` is its time for all
    batches. `certificate` is the path of the certificate that was written or checked, and `differences` says what is not as
    it was then, such as another version of onnxruntime.
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
    seconds: float
    layers: dict[str, float] = field(default_factory=dict)
    certificate: str | None = None
    differences: tuple[str, ...] = ()

    def __str__(self) -> str:
        worst = max(self.errors, key=lambda name: self.errors[name])
        *first, last = map(str, self.batches)
        batches = f"batches of {', '.join(first)} and {last}" if first else f"a batch of {last}"
        layers = f"{len(self.layers)} layers, " if self.layers else ""
        return (
            f"{self.path}: ONNX opset {self.opset}, {layers}{self.nodes} nodes, {self.parameters:,} parameters, "
            f"{self.bytes:,} bytes. onnxruntime agrees with {self.judge} on {batches} random inputs: largest relative error "
            f"{self.errors[worst]:.1e} ({worst}), tolerance {self.tolerance:.1e}.{self._certified()}"
        )

    def _certified(self) -> str:
        if self.certificate is None:
            return ""
        return f" Certificate: {self.certificate}{''.join(f'; {text}' for text in self.differences)}."


def make_report(path: object, proto: Any, **found: Any) -> OnnxReport:
    """The report on the file at `path`, which holds `proto`, with what a check found."""
    return OnnxReport(
        path=str(path),
        opset=next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0),
        ir_version=proto.ir_version,
        nodes=len(proto.graph.node),
        **found,
    )


def sizes(data: bytes, proto: Any) -> dict[str, int]:
    """What a report says of the size of a file that was read."""
    return {"bytes": len(data), "parameters": sum(math.prod(tensor.dims) for tensor in proto.graph.initializer)}
