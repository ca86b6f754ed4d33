"""Batch normalization folded into the weights before it: `scale (W x + b) + shift = (scale W) x + (scale b + shift)`.

Exact but for roundings, so it is computed in float64 and rounded once (Jacob et al. 2018, section 3.2, for deployed networks).
"""

from collections import Counter
from copy import copy

import numpy as np

from ..layer import Layer, has_affine_params, has_scale_shift
from ..layers.dense import Dense
from ..model import Model
from ..model.graph import Step
from .rewiring import rewired


def folded(model: Model) -> Model:
    """The same function with fewer layers: each normalization that alone reads the output of a convolution, a transposed
    convolution or a dense layer is gone, and the weights before it are others.

    A layer at several places is folded if the same normalization follows it at each. Everything else is shared with `model`,
    and names stay.
    """
    behind = _normalizations(model)
    twins = {id(step.layer): _twin(step.layer, behind[step.target].layer) for step in model.steps if step.target in behind}
    gone = {step.target for step in behind.values()}
    return rewired(
        model, model.input_shapes, lambda step: None if step.target in gone else twins.get(id(step.layer), step.layer)
    )


def _normalizations(model: Model) -> dict[int, Step]:
    """The normalization behind each value that one can be folded into the computation of."""
    reads = Counter(source for step in model.steps for source in step.sources)
    reads.update(model.outputs)
    readers = {source: step for step in model.steps for source in step.sources if reads[source] == 1}
    found: dict[int, Step] = {}
    for layer_id in {id(step.layer) for step in model.steps}:
        places = [step for step in model.steps if id(step.layer) == layer_id]
        after = {step.target: readers[step.target] for step in places if step.target in readers}
        same = len(after) == len(places) and len({id(norm.layer) for norm in after.values()}) == 1
        if same and has_scale_shift(after[places[0].target].layer) and all(_has_channels(model, step) for step in places):
            found |= after
    return found


def _has_channels(model: Model, step: Step) -> bool:
    """Whether what the layer gives one weight each are the channels, axis 1, which is what normalization scales."""
    vectors = len(model.value_shapes[step.target]) == 1
    return has_affine_params(step.layer) and (vectors or not isinstance(step.layer, Dense))


def _twin(layer: Layer, normalization: Layer) -> Layer:
    """A copy of `layer` with the weights that give what `normalization` gives behind it."""
    wide, twin = copy(normalization), copy(layer)
    wide.params = {key: value.astype(np.float64) for key, value in normalization.params.items()}
    params = layer.affine_params(*wide.scale_shift())
    twin.params = {key: value.astype(np.float32) for key, value in params.items()}
    twin.bias = True  # type: ignore[attr-defined]
    return twin
