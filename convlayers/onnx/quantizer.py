"""onnxruntime's static quantizer, asked quietly."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ExportError, MissingDependencyError
from .evaluation import Feeds
from .int8 import in_int8, weighted_nodes
from .session import one_line, open_session

# onnxruntime's levels: it starts with warnings, and has no function that asks which one is set.
_WARNINGS, _FATAL_ONLY = 2, 4


def quantized(data: bytes, feeds: Feeds, reduce_range: bool, folder: Path, place: str) -> Any:
    """The file of these bytes with the pairs around its operators, a `ModelProto`; what onnxruntime writes is in `folder`.

    Raises `ExportError` for one that has nothing to quantize, or that the quantizer fails on.
    """
    import onnx

    folded, made = folder / "folded.onnx", folder / "made.onnx"
    open_session(data, place, folded=str(folded))
    if not weighted_nodes(onnx.load(folded)):
        raise ExportError(f"{place} has no convolution and no matrix product, which alone gain from eight bits")
    _run_quantizer(folded, made, feeds, reduce_range, place)
    proto = onnx.load(made)
    if not in_int8(proto):
        raise ExportError(f"{place}: onnxruntime quantizes none of its weights; they must be float32 constants of the file")
    return proto


def _run_quantizer(folded: Path, made: Path, feeds: Feeds, reduce_range: bool, place: str) -> None:
    try:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise MissingDependencyError(
            f'onnxruntime\'s quantizer needs {error.name}, which is not installed: pip install "onnxruntime[quantization]"'
        ) from error
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    options = {"quant_format": QuantFormat.QDQ, "per_channel": True, "reduce_range": reduce_range, **kinds}
    with _silence():
        try:
            quantize_static(str(folded), str(made), _Reader(feeds), **options)
        except Exception as error:  # whatever one of its handlers raises
            raise ExportError(f"{place}: onnxruntime cannot quantize it: {one_line(error)}") from error


class _Reader:
    """Batches as the quantizer asks for them."""

    def __init__(self, feeds: Feeds) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing of onnxruntime's on the terminal: the quantizer's advice goes to Python's root logger."""
    import onnxruntime

    root, handler = logging.getLogger(), logging.NullHandler()

    def others(entry: logging.LogRecord) -> bool:
        return "onnxruntime" not in entry.pathname

    # With no handler at all, logging's own functions would install one for good.
    root.addHandler(handler)
    root.addFilter(others)
    onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNINGS)
        root.removeFilter(others)
        root.removeHandler(handler)
