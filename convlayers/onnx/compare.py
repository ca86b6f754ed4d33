"""How a file and its model are compared: which inputs, by which measure, and how far apart the results may lie.

**Inputs** are uniform, numbers in [-1, 1) and pixels from 0 to 255, drawn from (seed, number of the input), so that a file
can be checked again anywhere. Two samples are drawn, and batches of 1, 2 and 7 (of large networks 1, 2 and 3) are made of
them: one, an even and an odd number. So the model itself computes two samples only. A larger batch repeats them in the order
of Barker's code of length 7 (0100111), which no shift maps to itself: a file that mixes up its samples cannot pass.

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
  Float64 takes its time, so it is computed only where an error is over a quarter of the first bound.

**Layers** are compared one by one, as far as the outputs do not speak for them:

- where the outputs differ, to name the first layer that does;
- where the outputs can hardly tell: two random samples that differ all over leave them apart by less than 50 times the
  bound. The change that an error makes in a layer fades on its way to the outputs as the change of samples does, so an
  error of some hundredths might end below the bound;
- in a network of few multiply-adds, since it costs next to nothing there.

An error that no output shows for any input is none of the file's: its outputs are what is promised.
"""

from time import perf_counter
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
# Of a network that takes long: ResNet-50's export spends half its time on ten images, six are proof enough.
_FEW_BATCHES = (1, 2, 3)
_MANY_MULTIPLY_ADDS = 1 << 30
SAMPLES = 2
_ORDER = (0, 1, 0, 0, 1, 1, 1)
_OWN_ROUNDINGS = 4.0
_LOOSEST = 0.01
_NEAR = 0.25
_TELLING = 50
_FEW_MULTIPLY_ADDS = 1 << 27


def order(batch: int) -> np.ndarray:
    """Which of the two samples stand in a batch, `(batch,)`."""
    return np.resize(_ORDER, batch)


def draw(seed: int, batch: int, shapes: list[Shape], pixels: bool = False, samples: int | None = SAMPLES) -> list[np.ndarray]:
    """One array `(batch, *shape)` for each input: float32, or uint8 for `pixels`.

    `samples=None` draws every sample of the batch by itself.
    """
    count, rows = (batch, np.arange(batch)) if samples is None else (samples, order(batch))
    result = []
    for number, shape in enumerate(shapes):
        # Whole bits scaled by a power of two, the part of NumPy's generators that does not change between its versions.
        uniform = generator(seed, "onnx input", number, count).random((count, *shape), np.float32)[rows]
        result.append((uniform * 256).astype(np.uint8) if pixels else uniform * np.float32(2) - np.float32(1))
    return result


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


def is_near(error: float, limit: float) -> bool:
    """Whether an error is so near the first bound that the second is asked for."""
    return not error <= _NEAR * limit


def _products(model: Model) -> list[tuple[int, int]]:
    """For each step, its multiply-adds and the values that it computes, of one sample."""
    result = []
    for step in model.steps:
        shapes, output = [model.value_shapes[s] for s in step.sources], model.value_shapes[step.target]
        result.append((step.layer.multiply_adds(joined(step.layer, shapes), output), features(output)))
    return result


def lengths(model: Model) -> list[int]:
    """For each step, the products of its sums and of those of all the steps before it: `l_1 + ... + l_k`."""
    total, result = 0, []
    for products, values in _products(model):
        total += max(-(-products // max(values, 1)), 1)
        result.append(total)
    return result


def _multiply_adds(model: Model) -> int:
    """Those of one sample."""
    return sum(products for products, _ in _products(model))


def is_small(model: Model) -> bool:
    """Whether the model has so few multiply-adds that comparing every layer costs next to nothing."""
    return _multiply_adds(model) <= _FEW_MULTIPLY_ADDS


def batches_of(model: Model) -> tuple[int, ...]:
    """The batches on which the model's file is run."""
    return BATCHES if _multiply_adds(model) <= _MANY_MULTIPLY_ADDS else _FEW_BATCHES


def outputs_of(model: Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The model's outputs, one array each."""
    y = model(as_given(inputs))
    return y if isinstance(y, list) else [y]


def hardly_tells(output: np.ndarray, limit: float) -> bool:
    """Whether an output of the two samples, `(2, ...)`, says little about what was computed before it."""
    return relative_error(output[:1], output[1:], scale_of(output)) < _TELLING * limit


def run_batches(
    session: Any,
    seed: int,
    batches: tuple[int, ...],
    inputs: dict[str, Shape],
    outputs: dict[str, Shape],
    place: str,
    **drawn: Any,
) -> tuple[dict[str, np.ndarray], float]:
    """A file's outputs on the inputs drawn for each batch, one batch under the other, and the seconds that they took.

    `drawn` as for `draw`. Raises `ExportError` where a run fails, `ExportMismatchError` for an output of another shape.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
    seconds = 0.0
    for batch in batches:
        feeds = dict(zip(inputs, draw(seed, batch, list(inputs.values()), **drawn), strict=True))
        begun = perf_counter()
        found = run(session, feeds, place)
        seconds += perf_counter() - begun
        results = dict(zip([o.name for o in session.get_outputs()], found, strict=True))
        for name, shape in outputs.items():
            actual = results[name].shape if name in results else None
            if actual != (batch, *shape):
                raise ExportMismatchError(
                    f'{place}: output "{name}" must have shape {(batch, *shape)}; onnxruntime gives {actual}'
                )
            parts[name].append(results[name])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}, seconds


def judge(errors: dict[str, float], limit: float, place: str, against: str) -> None:
    """Raise `ExportMismatchError` for an output whose error is over `limit`; `against` says what it was compared with."""
    for name, error in errors.items():
        if not error <= limit:
            raise ExportMismatchError(
                f'{place}: output "{name}" of onnxruntime differs from {against} by {error:.2g} of its largest value; '
                f"rounding explains {limit:.2g}"
            )
