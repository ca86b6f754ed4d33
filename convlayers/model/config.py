"""A model's structure as JSON values, and back."""

from typing import Any

from ..errors import ConvlayersError, FileFormatError, located
from ..layer import Node
from ..registry import layer_class, source_of
from .graph import Input
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


def _created(entry: dict[str, Any], number: int) -> Any:
    place = f'layer {number} "{entry["name"]}"'
    try:
        return layer_class(entry["layer"], entry.get("distribution"))(**entry["config"])
    except ConvlayersError as error:
        raise located(error, place) from error
    except TypeError as error:
        raise FileFormatError(f"{place}: {entry['layer']} does not take this configuration ({error})") from error


def from_config(config: dict[str, Any]) -> Model:
    """The model that `to_config` described, with fresh weights. Raises `FileFormatError` for values that describe none."""
    try:
        if config["version"] != VERSION:
            raise FileFormatError(f"the configuration has version {config['version']!r}; this convlayers reads {VERSION}")
        layers: list[Any] = []
        for number, entry in enumerate(config["layers"]):
            layers.append(layers[entry["shares"]] if "shares" in entry else _created(entry, number))
        names = [entry["name"] for entry in config["layers"]]
        shapes = [tuple(shape) for shape in config["inputs"]]
        if config["kind"] == "sequential":
            model: Model = Sequential(list(zip(names, layers, strict=True)), input_shape=shapes[0], seed=config["seed"])
        else:
            nodes: list[Node] = [Input(shape) for shape in shapes]
            inputs = list(nodes)
            for entry, layer in zip(config["layers"], layers, strict=True):
                nodes.append(layer(*(nodes[i] for i in entry["inputs"]), name=entry["name"]))
            model = Model(inputs, [nodes[o] for o in config["outputs"]], seed=config["seed"])
        model.metadata = dict(config["metadata"])
        return model
    except ConvlayersError:
        raise
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise FileFormatError(f"this is not a model's configuration ({type(error).__name__}: {error})") from error
