"""The network to train: one of `convlayers.models` by name, a TOML file of layers, or an ONNX file."""

import tomllib
from collections.abc import Callable
from typing import Any

from .. import models
from ..datasets import Dataset
from ..errors import ConfigError, ConvlayersError, FileFormatError, ShapeError, located
from ..files import read_whole
from ..model import Model, Sequential
from ..onnx import import_onnx
from ..registry import create_layer

# Side of the images up to which two 3x3 convolutions see enough.
_SMALL = 16
# What is no classifier of images, and what it is.
_OTHERS = {"tcn": "labels each moment of a signal", "unet": "labels each pixel of an image"}


def architectures() -> dict[str, Callable[..., Model]]:
    """The functions of `convlayers.models` by their names on the command line, such as `digits-cnn`."""
    return {name.replace("_", "-"): getattr(models, name) for name in sorted(models.__all__)}


def classifiers() -> list[str]:
    """The names of those that can be trained on labelled images."""
    return [name for name in architectures() if name not in _OTHERS]


def default_name(data: Dataset) -> str:
    """`digits-cnn` for images up to 16x16, `lenet5` for larger ones."""
    if len(data.input_shape) != 3:
        raise ConfigError(f"samples of shape {data.input_shape} are not images (C, H, W); say --model FILE.toml")
    return "digits-cnn" if max(data.input_shape[1:]) <= _SMALL else "lenet5"


def create(name: str, data: Dataset, seed: int) -> Model:
    """The model called `name` or described by the TOML file `name`, with fresh weights for this data; or that of an ONNX file.

    Raises `ConfigError` for an unknown name and `ShapeError` where the model does not fit the samples or the classes.
    """
    if name.endswith(".onnx"):
        model = import_onnx(name)
    else:
        model = _from_toml(name, data.input_shape, seed) if name.endswith(".toml") else _named(name, data, seed)
    if model.input_shape != data.input_shape:
        raise ShapeError(f"{name} takes samples of shape {model.input_shape}; {data.name} has {data.input_shape}")
    if model.output_shape != (data.classes,):
        raise ShapeError(
            f"{name} puts out {model.output_shape} a sample; {data.name} has {data.classes} classes, "
            f"so its last layer must put out ({data.classes},)"
        )
    return model


def _named(name: str, data: Dataset, seed: int) -> Model:
    known = f"{', '.join(classifiers())}, a FILE.toml of layers, or a FILE.onnx to go on with"
    if name in _OTHERS:
        raise ConfigError(f"{name} {_OTHERS[name]}, where one label an image is wanted; there are {known}")
    function = architectures().get(name.replace("_", "-"))
    if function is None:
        raise ConfigError(f"no model is called {name!r}; there are {known}")
    try:
        return function(data.input_shape, data.classes, seed=seed)
    except ShapeError as error:
        raise located(error, f"{name} on samples of shape {data.input_shape}") from error


def _from_toml(path: str, input_shape: tuple[int, ...], seed: int) -> Model:
    try:
        table = tomllib.loads(read_whole(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileFormatError(f"{path} is not a TOML file: {error}") from error
    unknown = sorted(table.keys() - {"layers", "input_shape"})
    entries = table.get("layers")
    if unknown or not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in entries):
        what = f"the key {unknown[0]!r} is unknown" if unknown else "there are no layers"
        raise ConfigError(f'{path}: {what}; it holds one [[layers]] table a layer, with layer = "conv2d" and so on')
    layers = []
    for number, entry in enumerate(entries):
        layers.append((str(entry.pop("name", number)), _layer(entry, f"{path}: layer {number}")))
    try:
        return Sequential(layers, input_shape=table.get("input_shape", input_shape), seed=seed)
    except ConvlayersError as error:
        raise located(error, path) from error


def _layer(entry: dict[str, Any], place: str) -> Any:
    layer_id = entry.pop("layer", None)
    if not isinstance(layer_id, str):
        raise ConfigError(f'{place} names no layer; add layer = "conv2d" or another id that convlayers layers lists')
    try:
        return create_layer(layer_id, **entry)
    except ConvlayersError as error:
        raise located(error, place) from error
    except TypeError as error:
        raise ConfigError(f"{place}: {layer_id} does not take this configuration ({error})") from error
