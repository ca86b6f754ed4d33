"""A model's structure as JSON values, and back."""

from typing import Any

import numpy as np

from ..errors import ConvlayersError, FileFormatError, located
from ..layer import Layer
from ..registry import layer_class, source_of
from .graph import Step, check_name, sample_shape
from .model import Model
from .sequential import Sequential

VERSION = 1


def to_config(model: Model) -> dict[str, Any]:
    """Inputs by shape; layers by id, name and configuration, each with the values that it reads; outputs by value number."""
    shared: dict[int, int] = {}
    layers = []
    for number, step in enumerate(model.steps):
        source = source_of(type(step.layer))
        entry: dict[str, Any] = {"name": step.name, "layer": source.id, "distribution": source.distribution}
        if id(step.layer) in shared:
            entry["shares"] = shared[id(step.layer)]
        else:
            shared[id(step.layer)] = number
            entry["config"] = step.layer.config()
        entry["inputs"] = list(step.sources)
        layers.append(entry)
    return {
        "version": VERSION,
        "kind": "sequential" if isinstance(model, Sequential) else "graph",
        "seed": model.seed,
        "inputs": [list(shape) for shape in model.input_shapes],
        "layers": layers,
        "outputs": list(model.outputs),
        "metadata": model.metadata,
    }


def _created(entry: dict[str, Any], number: int) -> Layer:
    place = f'layer {number} "{entry["name"]}"'
    try:
        return layer_class(entry["layer"], entry.get("distribution"))(**entry["config"])
    except ConvlayersError as error:
        raise located(error, place) from error
    except TypeError as error:
        raise FileFormatError(f"{place}: {entry['layer']} does not take this configuration ({error})") from error


def _steps(entries: list[dict[str, Any]], inputs: int) -> list[Step]:
    """The steps that the entries describe, each reading values that are there before it."""
    layers: list[Layer] = []
    steps = []
    for number, entry in enumerate(entries):
        layers.append(layers[entry["shares"]] if "shares" in entry else _created(entry, number))
        sources = tuple(entry["inputs"])
        if not all(type(s) is int and 0 <= s < inputs + number for s in sources) or not sources:
            raise FileFormatError(f'layer {number} "{entry["name"]}" reads the values {sources}; there are {inputs + number}')
        steps.append(Step(check_name(entry["name"]), layers[-1], sources, inputs + number))
    if len({step.name for step in steps}) < len(steps):
        raise FileFormatError("two layers have one name")
    return steps


def from_config(config: dict[str, Any], draws: np.random.Generator | None = None) -> Model:
    """The model that `to_config` described, with fresh weights. Raises `FileFormatError` for values that describe none."""
    try:
        if config["version"] != VERSION:
            raise FileFormatError(f"the configuration has version {config['version']!r}; this convlayers reads {VERSION}")
        kind: type[Model] = {"sequential": Sequential, "graph": Model}[config["kind"]]
        shapes = [sample_shape(tuple(shape), "an input's shape") for shape in config["inputs"]]
        steps = _steps(config["layers"], len(shapes))
        outputs = list(config["outputs"])
        if not shapes or not outputs or not all(type(o) is int and 0 <= o < len(shapes) + len(steps) for o in outputs):
            raise FileFormatError(f"the outputs {outputs} are not among the model's values")
        model = kind.__new__(kind)
        model._assemble(shapes, steps, outputs, int(config["seed"]), draws)
        model.metadata = dict(config["metadata"])
        return model
    except ConvlayersError:
        raise
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, OverflowError, MemoryError) as error:
        raise FileFormatError(f"this is not a model's configuration ({type(error).__name__}: {error})") from error
