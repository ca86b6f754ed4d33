"""ONNX: models written as files that onnxruntime has already agreed with, such files checked again, and files as models."""

from .export import export_onnx
from .imports import available_handlers, handler, import_onnx
from .preprocessing import Preprocessing
from .quantization_report import QuantizationReport
from .quantize import quantize_onnx
from .report import OnnxReport
from .runtime import OnnxModel
from .verify import verify_onnx

__all__ = [
    "OnnxModel",
    "OnnxReport",
    "Preprocessing",
    "QuantizationReport",
    "available_handlers",
    "export_onnx",
    "handler",
    "import_onnx",
    "quantize_onnx",
    "verify_onnx",
]
