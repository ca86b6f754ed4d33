"""An ONNX file as something that predicts."""

import json
from os import PathLike
from typing import Any

import numpy as np

from ..errors import ArrayTypeError, ExportError, ShapeError
from ..functional import as_array
from ..layer import Shape
from ..model.graph import in_order
from ..shapes import positive
from . import proto as files
from .record import KEY
from .session import InputSpec, inputs_of, open_session, run


class OnnxModel:
    """An ONNX file, of this package or another, run by onnxruntime on the processor.

    `metadata` holds the file's properties: texts, but `labels` and `preprocessing` as the values that their JSON describes.
    Raises `FileAccessError`, `FileFormatError` (empty, truncated, corrupt, not ONNX) or `ExportError` (fails onnx.checker,
    refused by onnxruntime, weights in other files).
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        data, proto = files.read(path)
        self.path = str(path)
        self.metadata = {entry.key: _value(entry.key, entry.value) for entry in proto.metadata_props if entry.key != KEY}
        self._session = open_session(data, self.path)
        self._inputs = inputs_of(self._session, self.path, open_axes=True)
        if not self._inputs:
            raise ExportError(f"{self.path} has no inputs, so it cannot predict")

    @property
    def input_shape(self) -> Shape | list[Shape]:
        """The shape of one sample, None for an axis of any size; a list for several inputs."""
        shapes = [spec.shape for spec in self._inputs]
        return shapes[0] if len(shapes) == 1 else shapes

    def predict(self, x: Any, batch_size: int = 256) -> Any:
        """The outputs for x `(N, *input_shape)`, `batch_size` samples at a time; lists for several inputs or outputs,
        or a dict by the inputs' names.

        Raises `ShapeError` for samples of another shape, `ArrayTypeError` for an array that the file cannot take.
        """
        parts = [self.run(feeds) for feeds in self.feeds(x, batch_size)]
        outputs = [np.concatenate(part) for part in zip(*parts, strict=True)]
        return outputs[0] if len(outputs) == 1 else outputs

    def feeds(self, x: Any, batch_size: int = 256) -> list[dict[str, np.ndarray]]:
        """x as `predict` takes it, checked, in batches as `run` takes them."""
        size = positive(batch_size, "batch_size")
        given = in_order(x, [spec.name for spec in self._inputs], f"{self.path} takes {len(self._inputs)} inputs")
        arrays = {spec.name: _fitting(value, spec) for value, spec in zip(given, self._inputs, strict=True)}
        count, *others = map(len, arrays.values())
        if any(other != count for other in others):
            raise ShapeError(f"the inputs' batch sizes differ: {', '.join(str(len(array)) for array in arrays.values())}")
        fixed = next((spec.batch for spec in self._inputs if spec.batch is not None), None)
        if fixed is not None and (fixed == 0 or count % fixed):
            raise ShapeError(f"{self.path} takes batches of exactly {fixed}, so a multiple of that; got {count} samples")
        step = fixed or size
        return [{name: array[i : i + step] for name, array in arrays.items()} for i in range(0, max(count, 1), step)]

    def run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Every output for one batch of `feeds`."""
        results = run(self._session, feeds, self.path)
        count = len(next(iter(feeds.values())))
        if any(result.ndim == 0 or len(result) != count for result in results):
            raise ShapeError(f"{self.path} does not give one output a sample, so it cannot predict")
        return results


def fits(shape: Shape, wanted: Any) -> bool:
    """Whether a sample of `shape` can be an input of the shape `wanted`, in which None is any size."""
    return len(shape) == len(wanted) and all(w in (None, size) for size, w in zip(shape, wanted, strict=True))


def _fitting(value: Any, spec: InputSpec) -> np.ndarray:
    array = as_array(value, f'input "{spec.name}"')
    if spec.dtype.kind in "iub" and not np.array_equal(array, array.astype(spec.dtype)):
        raise ArrayTypeError(f'input "{spec.name}" takes {spec.dtype}; got values that it cannot hold')
    if not fits(array.shape[1:], spec.shape) or array.ndim == 0:
        raise ShapeError(f'input "{spec.name}" takes a batch of samples of shape {spec.shape}; got {array.shape}')
    return array.astype(spec.dtype, copy=False)


def _value(key: str, text: str) -> Any:
    if key not in ("labels", "preprocessing"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # another program's labels
        return text
