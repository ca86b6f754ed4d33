"""What a file in int8 costs and brings."""

from dataclasses import dataclass

from .report import OnnxReport


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
