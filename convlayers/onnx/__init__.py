"""ONNX: models written as files that onnxruntime has already agreed with, and such files checked again."""

from .export import export_onnx
from .quantization_report import QuantizationReport
from .quantize import quantize_onnx
from .report import OnnxReport
from .runtime import OnnxModel
from .verify import verify_onnx

__all__ = ["OnnxModel", "OnnxReport", "QuantizationReport", "export_onnx", "quantize_onnx", "verify_onnx"]
