"""How a file and its model are compared: which inputs, by which measure, and how far apart the results may lie.

**Inputs** are uniform in [-1, 1), drawn from (seed, number of the input, batch size), so that a file can be checked again
anywhere. Batches of 1, 2 and 7 samples: one, an even and an odd number.

**The measure** is the largest difference relative to the largest value of the model's own output over all batches.
It has no floor at 1: deep in an untrained network values are small, and a wrong weight there must still show.

**The bound** after a chain of layers is the larger of two:

- `tolerance(float32, l_1 + l_2 + ... + l_k)`, where layer i computes sums of `l_i` products. Each layer adds roundings of
  `tolerance(float32, l_i)`, which grows as `sqrt(l_i)`, to those that it inherits. Roundings of different layers are
  independent, so their squares add up. Fifty 3x3 convolutions of 64 channels may differ by 3e-4, LeNet-5 by 5e-5;
  a wrong padding or a swapped weight changes an output by some hundredths at least.
- Four times the model's own rounding: its float32 results against the same model computed in float64 on the same inputs.
  Some networks magnify roundings, by a difference of near-equal values or by an exponential; float32 cannot know their
  outputs better than this, in any runtime. An error in the file is no rounding and leaves this bound where it is.
  A hundredth is the limit: a network that loses more cannot be checked, and that is an error too.
"""

from typing import Any

import numpy as np

from ..errors import ExportMismatchError
from ..layer import Shape, joined
from ..model import Model
from ..randomness import generator
from ..shapes import features
from ..tolerance import largest_error, tolerance
from .session import run

BATCHES = (1, 2, 7)
_OWN_ROUNDINGS = 4.0
_LOOSEST = 0.01


def draw(seed: int, batch: int, shapes: list[Shape]) -> list[np.ndarray]:
    """One float32 array `(batch, *shape)` for each input."""
    # Whole bits scaled by a power of two, the part of NumPy's generators that does not change between its versions.
    return [
        generator(seed, "onnx input", number, batch).random((batch, *shape), np.float32) * np.float32(2) - np.float32(1)
        for number, shape in enumerate(shapes)
    ]


def as_given(inputs: list[np.ndarray]) -> Any:
    """Inputs as a model takes them: one as itself, several as a list."""
    return inputs[0] if len(inputs) == 1 else inputs


def scale_of(array: np.ndarray) -> float:
    """The largest finite magnitude, 1 where there is none but zero."""
    finite = array[np.isfinite(array)]
    return float(np.abs(finite.astype(np.float64)).max(initial=0.0)) or 1.0


def relative_error(actual: np.ndarray, expected: np.ndarray, scale: float | None = None) -> float:
    """The largest difference relative to `scale`, by default that of `expected`; infinite where the shapes differ."""
    unit = scale_of(expected) if scale is None else scale
    return largest_error(np.asarray(actual, np.float64) / unit, np.asarray(expected, np.float64) / unit)


def bound(length: int, narrow: np.ndarray, wide: np.ndarray) -> float:
    """The largest error allowed behind sums of `length` products in all, where the model computes `narrow` in float32
    and `wide` in float64."""
    own = _OWN_ROUNDINGS * relative_error(narrow, wide)
    return max(tolerance(np.float32, length), min(own, _LOOSEST))


def lengths(model: Model) -> list[int]:
    """For each step, the products of its sums and of those of all the steps before it: `l_1 + ... + l_k`."""
    total, result = 0, []
    for step in model.steps:
        shapes = [model.value_shapes[s] for s in step.sources]
        output = model.value_shapes[step.target]
        products = step.layer.multiply_adds(joined(step.layer, shapes), output)
        total += max(-(-products // max(features(output), 1)), 1)
        result.append(total)
    return result


def expected_outputs(model: Model, seed: int) -> tuple[list[np.ndarray], float]:
    """The model's outputs for all batches, one under the other, and the bound for comparing them."""
    narrow: list[list[np.ndarray]] = []
    wide: list[list[np.ndarray]] = []
    for batch in BATCHES:
        inputs = draw(seed, batch, model.input_shapes)
        for results, dtype in ((narrow, np.float32), (wide, np.float64)):
            y = model(as_given([x.astype(dtype, copy=False) for x in inputs]))
            results.append(y if isinstance(y, list) else [y])
    stacked = [np.concatenate(batches) for batches in zip(*narrow, strict=True)]
    exact = [np.concatenate(batches) for batches in zip(*wide, strict=True)]
    length = max(lengths(model), default=1)
    return stacked, max(bound(length, a, b) for a, b in zip(stacked, exact, strict=True))


def run_batches(
    session: Any, seed: int, batches: tuple[int, ...], inputs: dict[str, Shape], outputs: dict[str, Shape], place: str
) -> dict[str, np.ndarray]:
    """A file's outputs on the inputs drawn for each batch, one batch under the other.

    Raises `ExportError` where a run fails, `ExportMismatchError` for an output of another shape.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
    for batch in batches:
        feeds = dict(zip(inputs, draw(seed, batch, list(inputs.values())), strict=True))
        results = dict(zip([o.name for o in session.get_outputs()], run(session, feeds, place), strict=True))
        for name, shape in outputs.items():
            found = results[name].shape if name in results else None
            if found != (batch, *shape):
                raise ExportMismatchError(
                    f'{place}: output "{name}" must have shape {(batch, *shape)}; onnxruntime gives {found}'
                )
            parts[name].append(results[name])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}
