"""A model from a file, and how it does on the test images."""

import os
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..datasets import Dataset
from ..errors import DataError, FileAccessError, ShapeError
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
        from ..onnx import OnnxModel

        predictor = OnnxModel(path)
        shape, metadata = predictor.input_shape, predictor.metadata
    if shape != data.input_shape:
        raise ShapeError(f"{path} takes samples of shape {shape}; {data.name} has {data.input_shape}")
    labels = metadata.get("labels")
    if isinstance(labels, list) and labels[: data.classes] != data.labels:
        raise DataError(f"{path} tells {_few(labels)} apart; {data.name} has {_few(data.labels)}")
    return predictor


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
