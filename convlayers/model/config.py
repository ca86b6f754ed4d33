"""A model's structure as JSON values, and back."""

from collections.abc import Iterable
from typing import Any

from ..errors import ConvlayersError, FileFormatError, located
from ..layer import Layer
from ..registry import layer_class, source_of
from .graph import Input, Step, check_names, input_names, sample_shape
from .model import Model
from .sequential import Sequential

VERSION = 1


def to_config(model: Model) -> dict[str, Any]:
    """Inputs by shape and name; layers by id, name and configuration, each with the values that it reads; outputs by value
    number; what is frozen by name."""
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
        "input_names": list(model.input_names),
        "layers": layers,
        "outputs": list(model.outputs),
        "frozen": sorted(model.frozen),
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
        count, place = inputs + number, f'layer {number} "{entry["name"]}"'
        if not all(type(s) is int and 0 <= s < inputs + len(entries) for s in sources) or not sources:
            raise FileFormatError(f"{place} reads the values {sources}; there are {count} before it")
        for source in sources:
            if source >= count:
                other = entries[source - inputs]["name"]
                what = "its own output" if source == count else f'the output of "{other}", which comes later'
                raise FileFormatError(f"{place} reads {what}: the graph has a cycle")
        steps.append(Step(entry["name"], layers[-1], sources, count))
    return steps


def from_config(config: dict[str, Any], limit: int | None = None) -> Model:
    """The model that `to_config` described, with fresh weights; with a `limit`, zeros, no more of them than that.

    Raises `FileFormatError` for values that describe no model.
    """
    try:
        if config["version"] != VERSION:
            raise FileFormatError(f"the configuration has version {config['version']!r}; this convlayers reads {VERSION}")
        kind: type[Model] = {"sequential": Sequential, "graph": Model}[config["kind"]]
        shapes = [sample_shape(tuple(shape), "an input's shape") for shape in config["inputs"]]
        steps = _steps(config["layers"], len(shapes))
        taken = check_names([*config.get("input_names", ()), *(step.name for step in steps)])
        names = list(config["input_names"]) if "input_names" in config else [None] * len(shapes)
        inputs = [Input(shape, name) for shape, name in zip(shapes, names, strict=True)]
        outputs = list(config["outputs"])
        if not shapes or not outputs or not all(type(o) is int and 0 <= o < len(shapes) + len(steps) for o in outputs):
            raise FileFormatError(f"the outputs {outputs} are not among the model's values")
        model = kind.__new__(kind)
        model._assemble(inputs, input_names(inputs, taken), steps, outputs, int(config["seed"]), limit)
        _check_ends(model)
        model._freeze(_frozen(model, config.get("frozen", ())))
        model.metadata = dict(config["metadata"])
        return model
    except ConvlayersError:
        raise
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, OverflowError, MemoryError) as error:
        raise FileFormatError(f"this is not a model's configuration ({type(error).__name__}: {error})") from error


def _check_ends(model: Model) -> None:
    read = {*model.outputs, *(source for step in model.steps for source in step.sources)}
    for number, name in enumerate(model.value_names):
        if number not in read:
            raise FileFormatError(f'no output depends on "{name}"')


def _frozen(model: Model, names: Iterable[str]) -> frozenset[str]:
    found = frozenset(names)
    if unknown := found - {*model.parameters(), *model.buffers()}:
        raise FileFormatError(f"frozen are {', '.join(sorted(unknown))}, which the model has not")
    return found
