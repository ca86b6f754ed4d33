"""The proof of an export: the file as it will be written, run by onnxruntime, against the model."""

from typing import Any, NamedTuple

import numpy as np

from ..errors import ExportError, ExportMismatchError
from ..layer import Shape
from ..model import Model
from ..tolerance import tolerance
from .compare import (
    SAMPLES,
    batches_of,
    bound,
    draw,
    hardly_tells,
    is_near,
    is_small,
    lengths,
    order,
    outputs_of,
    relative_error,
    run_batches,
)
from .graph import GraphBuilder
from .layerwise import compare_layers, first_refused, judge
from .session import open_session

SEED = 0
_PLACE = "the export"


class Draft(NamedTuple):
    """A graph, the `ModelProto` of it, the model that it was written from, and the model whose outputs it must have: the same,
    unless batch normalization was folded."""

    model: Model
    written: Model
    graph: GraphBuilder
    proto: Any

    @property
    def inputs(self) -> dict[str, Shape]:
        """The file's inputs and the shapes of their samples, at the model's size."""
        names = [value.name for value in self.graph.inputs]
        return dict(zip(names, self.model.input_shapes, strict=True))

    @property
    def batches(self) -> tuple[int, ...]:
        """The batches on which the file is run."""
        return batches_of(self.model)

    @property
    def pixels(self) -> bool:
        """Whether the inputs are uint8."""
        return any(value.pixels for value in self.graph.inputs)

    @property
    def outputs(self) -> dict[str, Shape]:
        """The file's outputs and the shapes of their samples, at the model's size."""
        shapes = [self.model.value_shapes[output] for output in self.model.outputs]
        return {value.name: shape for value, shape in zip(self.graph.outputs, shapes, strict=True)}

    def drawn(self, batch: int) -> list[np.ndarray]:
        """The inputs of a batch."""
        return draw(SEED, batch, list(self.inputs.values()), self.pixels)

    def compare_layers(self, batch: int) -> dict[str, float]:
        """The largest error after each layer on a batch; `ExportMismatchError` names the first one above its bound."""
        drawn = self.drawn(batch)
        return compare_layers(self.written, self.graph, self.proto, dict(zip(self.inputs, drawn, strict=True)), drawn)

    def refused(self, error: ExportError) -> ExportError:
        """The error with the first layer that onnx or onnxruntime refuses in front, if one by one they refuse one."""
        place = first_refused(self.graph, dict(zip(self.inputs, self.drawn(SAMPLES), strict=True)))
        return ExportError(f"{place}: {error}") if place else error


class Proof(NamedTuple):
    """What the comparison found: the model's outputs for all batches, one under the other, the largest error of each, the
    bound and how it was set, the largest error after each layer that was compared, and onnxruntime's seconds."""

    expected: dict[str, np.ndarray]
    errors: dict[str, float]
    bound: float
    rule: str
    layers: dict[str, float]
    seconds: float


def prove(draft: Draft, path: str) -> Proof:
    """Compare the file at `path`, which lacks nothing but metadata, with the model, as `compare` says.

    Raises `ExportError` where onnxruntime refuses it, `ExportMismatchError` with the first layer that differs.
    """
    try:
        session = open_session(path, _PLACE)
        actual, seconds = run_batches(session, SEED, draft.batches, draft.inputs, draft.outputs, _PLACE, pixels=draft.pixels)
    except ExportMismatchError:
        _blame(draft)
        raise
    except ExportError as error:
        raise draft.refused(error) from error
    del session  # and with it a copy of the weights, before the model computes
    two = draft.drawn(SAMPLES)
    narrow = dict(zip(draft.outputs, outputs_of(draft.model, two), strict=True))
    rows = np.concatenate([order(batch) for batch in draft.batches])
    expected = {name: y[rows] for name, y in narrow.items()}
    errors = {name: relative_error(actual[name], y) for name, y in expected.items()}
    limit, rule = _bound(draft.model, two, list(narrow.values()), max(errors.values()))
    if any(not error <= limit for error in errors.values()):
        _blame(draft)
    for value in draft.graph.outputs:
        judge(value.place, errors[value.name], limit, f"batches of {', '.join(map(str, draft.batches))}")
    layered = is_small(draft.written) or any(hardly_tells(y, limit) for y in narrow.values())
    return Proof(expected, errors, limit, rule, draft.compare_layers(SAMPLES) if layered else {}, seconds)


def _bound(model: Model, inputs: list[np.ndarray], narrow: list[np.ndarray], error: float) -> tuple[float, str]:
    """The bound, and in words and numbers how it was set."""
    length = max(lengths(model), default=1)
    first = tolerance(np.float32, length)
    if is_near(error, first):
        wide = outputs_of(model, [x.astype(np.float64) for x in inputs])
        limit = max(bound(length, y, exact) for y, exact in zip(narrow, wide, strict=True))
        if limit > first:
            return limit, f"four times the model's own rounding: float32 against float64 differ by {limit / 4:.2g}"
    return first, f"16 roundings of float32 times the square root of {length:,}, the products of the sums behind an output"


def _blame(draft: Draft) -> None:
    """`ExportMismatchError` with the first layer that differs, on the first batch on which one does."""
    for batch in draft.batches:
        draft.compare_layers(batch)
