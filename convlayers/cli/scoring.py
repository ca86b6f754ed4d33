"""A model from a file, and how it does on the test images."""

import os
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..datasets import Dataset
from ..errors import ConfigError, DataError, FileAccessError, ShapeError
from ..model import Model, load
from ..model.store import unpack


class Predictor(Protocol):
    """What a trainer and an ONNX file have in common."""

    def predict(self, x: np.ndarray) -> Any:
        """Outputs `(N, classes)` for samples `(N, C, H, W)`."""


class Score(NamedTuple):
    """Test images that a model gets right, and its loss on them."""

    correct: int
    images: int
    loss: float

    def __str__(self) -> str:
        return f"accuracy {self.correct / self.images:.4f} ({self.correct} of {self.images} test images)"


def load_model(path: str) -> Model:
    """A saved model, the model within a checkpoint, or the network in an ONNX file; told apart by their content."""
    if not _is_safetensors(path):
        from ..onnx import import_onnx

        return import_onnx(path)
    _, header = unpack(path)
    if "trainer" not in header:
        return load(path)
    from ..trainer import Trainer

    return Trainer.resume(path).model


def find_model(name: str) -> Model:
    """The model in a file, or a new one by its name in `convlayers.models`, for images of its usual size."""
    from .architectures import architectures

    known = architectures().get(name.replace("_", "-"))
    return load_model(name) if known is None or os.path.exists(name) else known()


def open_predictor(path: str, data: Dataset) -> Predictor:
    """The model in a file, told by its content from an ONNX file, if it takes this data.

    Raises `ShapeError` for samples of another shape, `DataError` where its classes are others.
    """
    if _is_safetensors(path):
        from ..trainer import Trainer

        model = load_model(path)
        predictor: Any = Trainer(model)
        shape, metadata = model.input_shape, model.metadata
    else:
        predictor, shape, metadata = _open_file(path, data)
    sizes = zip(shape, data.input_shape, strict=False)
    if len(shape) != len(data.input_shape) or any(wanted not in (None, size) for wanted, size in sizes):
        raise ShapeError(f"{path} takes samples of shape {shape}; {data.name} has {data.input_shape}")
    labels = metadata.get("labels")
    if isinstance(labels, list) and labels[: data.classes] != data.labels:
        raise DataError(f"{path} tells {_few(labels)} apart; {data.name} has {_few(data.labels)}")
    return predictor


def _open_file(path: str, data: Dataset) -> tuple[Predictor, Any, dict[str, Any]]:
    """An ONNX file, the shape `(C, H, W)` of its samples, where None is any size, and its metadata."""
    from ..onnx import OnnxModel

    file = OnnxModel(path)
    given = file.metadata.get("preprocessing")
    if not isinstance(given, dict) or given.get("input") != "uint8":
        return file, file.input_shape, file.metadata
    last = given.get("layout") == "NHWC" and len(file.input_shape) == 3
    shape = (file.input_shape[2], *file.input_shape[:2]) if last else file.input_shape
    return _FromPixels(path, file, data, last), shape, file.metadata


class _FromPixels:
    """A file that takes raw pixels, fed with a data set's samples turned back into those."""

    def __init__(self, path: str, file: Predictor, data: Dataset, channels_last: bool) -> None:
        self._path, self._file, self._data, self._channels_last = path, file, data, channels_last

    def predict(self, x: np.ndarray) -> Any:
        return self._file.predict(self.pixels(x))

    def pixels(self, x: np.ndarray) -> np.ndarray:
        """The raw pixels that the data set made x of, in the file's layout. Raises `DataError` for other numbers."""
        scale = self._data.preprocessing["scale"]
        pixels = np.rint(x / np.float32(scale))
        if pixels.min() < 0 or pixels.max() > 255 or not np.allclose(pixels * scale, x, atol=1e-3 * scale):
            raise DataError(f"{self._path} takes raw pixels, whole numbers from 0 to 255; {self._data.name} holds others")
        return (pixels.transpose(0, 2, 3, 1) if self._channels_last else pixels).astype(np.uint8)


def as_taken(predictor: Predictor, x: np.ndarray) -> np.ndarray:
    """A data set's samples as the predictor's file takes them."""
    return predictor.pixels(x) if isinstance(predictor, _FromPixels) else x


def raw_pixels(model: Model, wanted: bool) -> Any:
    """The preprocessing to build into the model's file, so that it takes raw pixels as an image file's array has them; None
    where that is not wanted. Raises `ConfigError` for a model whose data set did not scale raw pixels."""
    if not wanted:
        return None
    given = model.metadata.get("preprocessing")
    scale = given.get("scale") if isinstance(given, dict) and given.get("layout") == "NCHW" else None
    if not isinstance(scale, float) or scale == 1 or len(model.input_shape) != 3:
        raise ConfigError(f"--raw-pixels is for images that their data set scaled; this model's preprocessing is {given!r}")
    from ..onnx import Preprocessing

    return Preprocessing(scale=scale)


def _few(labels: list[str]) -> str:
    return f"{len(labels)} classes ({', '.join(labels[:3])}{', ...' if len(labels) > 3 else ''})"


def _is_safetensors(path: str) -> bool:
    """Whether a file begins as safetensors do: the header's length, a little-endian uint64, then JSON."""
    try:
        with open(path, "rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as error:
        raise FileAccessError(f"cannot read {path}: {error.strerror or error}") from error


def evenly_spaced(x: np.ndarray, count: int) -> np.ndarray:
    """`count` samples from all over `x`, which may be sorted by classes; all of them where there are fewer."""
    kept = min(count, len(x))
    return x[np.arange(kept) * len(x) // kept]


def score(predictor: Predictor, data: Dataset) -> Score:
    """Run the test images through a model and compare. Raises `DataError` for a label that the model cannot give."""
    from ..trainer import CrossEntropy

    outputs, loss = predictor.predict(data.x_test), CrossEntropy()
    if not isinstance(outputs, np.ndarray) or outputs.ndim != 2:
        raise ShapeError("the model does not classify: it must put out one value a class, (N, classes)")
    loss.check(data.y_test, outputs.shape[1:])
    correct = int(np.count_nonzero(outputs.argmax(axis=1) == data.y_test))
    return Score(correct, len(outputs), loss(outputs, data.y_test)[0])
