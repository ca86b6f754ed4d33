"""Where a loss that is not finite began."""

from typing import Any

import numpy as np

from ..model import Model


def _kind(values: np.ndarray) -> str:
    return "NaN" if np.isnan(values).any() else "infinity"


def first_not_finite(model: Model, x: Any, step: int, seed: int) -> str:
    """Run the batch again and say which layer first holds or computes NaN or infinity, as the end of a sentence."""
    for name, layer in model.layers():
        for key, parameter in layer.params.items():
            if not np.isfinite(parameter).all():
                where = f'{type(layer).__name__} "{name}"'
                return f"{where} holds {_kind(parameter)} in its {key} since the step before; a smaller learning rate may help"
    layers = {s.name: type(s.layer).__name__ for s in model.steps}
    for name, output in model.trace(x, training=True, step=step, seed=seed):
        if not np.isfinite(output).all():
            return f'{layers[name]} "{name}" is the first layer whose output holds {_kind(output)}'
    return "every layer's output is finite, so it began in the loss itself"
