"""Convolutional networks, trained on a CPU with compiled kernels and handed over as verified ONNX files.

Everything public is here: layers, models, the trainer, ONNX, the registry. What needs another package (onnx,
onnxruntime, a data set) is imported when it is first used.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from . import functional
from .errors import ConvlayersError, ExportMismatchError
from .kernels import get_num_threads, set_num_threads
from .layer import Layer
from .layers.activations import ReLU, Sigmoid, Softmax, Tanh
from .layers.conv import Conv2d
from .layers.dense import Dense, Flatten
from .layers.dropout import Dropout
from .layers.joins import Add
from .layers.normalization import BatchNorm2d
from .layers.pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from .model import Input, Model, Sequential, load
from .registry import available_layers, create_layer, register_layer

if TYPE_CHECKING:
    from . import datasets, models, testing, trainer
    from .onnx import export_onnx, verify_onnx
    from .trainer import SGD, Adam, AdamW, Checkpoint, RMSprop, Trainer

try:
    __version__ = version("convlayers")
except PackageNotFoundError:  # a source tree that nobody installed
    __version__ = "0.0.0"

_LAZY = {
    "export_onnx": "onnx",
    "verify_onnx": "onnx",
    "Trainer": "trainer",
    "SGD": "trainer",
    "Adam": "trainer",
    "AdamW": "trainer",
    "RMSprop": "trainer",
    "Checkpoint": "trainer",
}
_LAZY_MODULES = ("datasets", "models", "testing", "trainer")


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return import_module(f".{name}", __name__)
    if name in _LAZY:
        value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY, *_LAZY_MODULES])


def show_config() -> None:
    """Print the version, the instruction set in use and those that could be, and the thread count."""
    import numpy

    from . import kernels

    print(f"convlayers {__version__}, numpy {numpy.__version__}")
    print(f"instruction set: {kernels.isa()} (this machine has {', '.join(kernels.available())})")
    print(f"threads: {get_num_threads()}")


__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Add",
    "AvgPool2d",
    "BatchNorm2d",
    "Checkpoint",
    "Conv2d",
    "ConvlayersError",
    "Dense",
    "Dropout",
    "ExportMismatchError",
    "Flatten",
    "GlobalAvgPool2d",
    "Input",
    "Layer",
    "MaxPool2d",
    "Model",
    "RMSprop",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "Trainer",
    "available_layers",
    "create_layer",
    "datasets",
    "export_onnx",
    "functional",
    "get_num_threads",
    "load",
    "models",
    "register_layer",
    "set_num_threads",
    "show_config",
    "testing",
    "trainer",
    "verify_onnx",
]
