"""Convolutional networks, trained on a CPU with compiled kernels and handed over as verified ONNX files.

Everything public is here: layers, models, the trainer, ONNX, the registry. A layer is here by its entry point alone, and
loads when it is first used, as does what needs another package (onnx, onnxruntime, a data set).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import functional, registry
from .errors import ConvlayersError, ExportMismatchError
from .kernels import get_num_threads, set_num_threads
from .layer import Layer
from .model import Input, Model, Sequential, load
from .registry import available_layers, create_layer, register_layer

if TYPE_CHECKING:
    from . import datasets, models, testing, trainer
    from .layers import *
    from .onnx import Preprocessing, export_onnx, import_onnx, quantize_onnx, verify_onnx
    from .trainer import SGD, Adam, AdamW, Checkpoint, RMSprop, Trainer, losses

_LAZY = {
    "export_onnx": "onnx",
    "quantize_onnx": "onnx",
    "import_onnx": "onnx",
    "verify_onnx": "onnx",
    "Preprocessing": "onnx",
    "Trainer": "trainer",
    "SGD": "trainer",
    "Adam": "trainer",
    "AdamW": "trainer",
    "RMSprop": "trainer",
    "Checkpoint": "trainer",
    "losses": "trainer",
}
_LAZY_MODULES = ("datasets", "models", "testing", "trainer")
_PUBLIC = (
    "ConvlayersError",
    "ExportMismatchError",
    "Input",
    "Layer",
    "Model",
    "Sequential",
    "available_layers",
    "create_layer",
    "functional",
    "get_num_threads",
    "load",
    "register_layer",
    "set_num_threads",
    "show_config",
)


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return import_module(f".{name}", __name__)
    if name in _LAZY:
        value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    elif name == "__version__":
        value = _version()
    elif name == "__all__":
        # Made when `from convlayers import *` asks: reading the metadata takes as long as the rest of the import.
        value = sorted([*_PUBLIC, *_LAZY, *_LAZY_MODULES, *registry.classes_of(__name__)])
    elif not name.startswith("_") and name in registry.classes_of(__name__):
        value = registry.layer_class(registry.classes_of(__name__)[name])
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:  # a source tree that nobody installed
        return "0.0.0"


def show_config() -> None:
    """Print the version, the instruction set in use and those that could be, and the thread count."""
    import numpy

    from . import kernels

    print(f"convlayers {_version()}, numpy {numpy.__version__}")
    print(f"instruction set: {kernels.isa()} (this machine has {', '.join(kernels.available())})")
    print(f"threads: {get_num_threads()}")
