"""A model's layers wired once more: behind other inputs, or with some of them replaced or left out."""

from collections.abc import Callable, Sequence

from ..layer import Layer, Node, Shape
from ..model import Input, Model
from ..model.graph import Step


def same_layer(step: Step) -> Layer | None:
    """Every layer as it is."""
    return step.layer


def rewire(model: Model, inputs: Sequence[Node], layer_of: Callable[[Step], Layer | None] = same_layer) -> list[Node]:
    """The outputs of the model's layers behind these nodes; names stay, and layers are shared with `model`.

    Where `layer_of` gives another layer, that one stands at the step; where it gives None, the step's input passes by.
    Raises `ShapeError` with the first layer whose weights do not fit.
    """
    values = list(inputs)
    for step in model.steps:
        read, layer = [values[s] for s in step.sources], layer_of(step)
        values.append(layer(*read, name=step.name) if layer else read[0])
    return [values[output] for output in model.outputs]


def rewired(model: Model, shapes: Sequence[Shape], layer_of: Callable[[Step], Layer | None] = same_layer) -> Model:
    """A model of the same names for inputs of these shapes, as `rewire` says."""
    inputs = [Input(shape, name) for shape, name in zip(shapes, model.input_names, strict=True)]
    return Model(inputs, rewire(model, inputs, layer_of))
