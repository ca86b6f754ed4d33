"""Parts of a sample: slices, and values by their index."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import functional
from ..errors import ConfigError, ShapeError
from ..layer import Layer, OnnxGraph, Shape
from ..shapes import sliced
from ._checks import axes_behind_batch, batch_axis, integers, sample_axes, sample_axis


class Slice(Layer):
    """Along each of `axes` the values from `starts` on, up to and without `ends`, every `steps`-th; as ONNX `Slice`.

    Lists of one length. `axes` count the batch, from 1 on. Negative starts and ends count from the end of an axis, and those
    beyond an axis stop at its edge; a negative step goes back, `Slice([-1], [-9], [1], [-1])` turns around an axis of up to 8.
    `steps` are 1 by default. `dx` is dy where x was read, 0 elsewhere. A slice of nothing is an error.
    """

    replays = True
    examples = (
        ({"starts": [1, 0], "ends": [3, 4], "axes": [2, 3]}, (3, 4, 5)),
        ({"starts": [-1], "ends": [-100], "axes": [1], "steps": [-2]}, (7,)),
        ({"starts": [0, 5], "ends": [9223372036854775807, 1], "axes": [3, 1], "steps": [3, -1]}, (6, 2, 5)),
    )

    def __init__(
        self, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int] | None = None
    ) -> None:
        self.axes = axes_behind_batch(axes)
        rule = "a list of ints, one for each of axes"
        self.starts = integers(starts, "starts", rule, lambda v: len(v) == len(axes))
        self.ends = integers(ends, "ends", rule, lambda v: len(v) == len(axes))
        self.steps = steps
        if steps is not None:
            integers(steps, "steps", rule + ", none of them 0", lambda v: len(v) == len(axes) and 0 not in v)

    def _ranges(self, shape: Shape) -> dict[int, range]:
        """What is taken of each axis of a batch of samples of `shape`."""
        steps = self.steps or [1] * len(self.axes)
        places = zip(self.axes, self.starts, self.ends, steps, strict=True)
        return {axis: sliced(shape[axis - 1], start, end, step) for axis, start, end, step in places}

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        sample_axes(self.axes, input_shape)
        ranges = self._ranges(input_shape)
        for axis, places in ranges.items():
            if not places:
                raise ShapeError(f"takes nothing of axis {axis} of a batch of samples of shape {tuple(input_shape)}")
        return tuple(len(ranges.get(axis, range(n))) for axis, n in enumerate(input_shape, 1))

    def forward(self, x, *, training):
        return functional.select(x, self._ranges(x.shape[1:])), x.shape

    def backward(self, dy, cache):
        return functional.select_backward(dy, cache, self._ranges(cache[1:]))

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        steps = self.steps or [1] * len(self.axes)
        return graph.op("Slice", *inputs, *(np.array(v, np.int64) for v in (self.starts, self.ends, self.axes, steps)))


def _as_indices(indices: Any) -> np.ndarray:
    try:
        array = np.asarray(indices)
    except (ValueError, OverflowError):
        array = np.empty(0)
    if array.dtype.kind not in "iu" or not array.size:
        raise ConfigError(f"indices must be an int or a list of ints, nested to a rectangle or more; got {indices!r}")
    return array.astype(np.int64)


class Gather(Layer):
    """The values of x at `indices` along `axis`; as ONNX `Gather`.

    `indices`: a list of ints, or nested lists, whose shape takes the place of the axis; one int takes the axis away. A negative
    one counts from the end. `axis` counts the batch. `dx` gets dy at the indices, added up where one stands several times.
    """

    replays = True
    examples = (
        ({"indices": [2, 0, 0, -1]}, (3, 4, 5)),
        ({"indices": [[0, 1], [1, 3]], "axis": 2}, (3, 4, 5)),
        ({"indices": -2, "axis": -1}, (3, 4)),
        ({"indices": [3, 3, 3]}, (7,)),
    )

    def __init__(self, indices: Any, axis: int = 1) -> None:
        self.indices = indices
        _as_indices(indices)
        self.axis = batch_axis(axis)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        axis, indices = sample_axis(self.axis, input_shape), _as_indices(self.indices)
        size = input_shape[axis]
        if indices.min() < -size or indices.max() >= size:
            raise ShapeError(f"indices of an axis of {size} go from {-size} to {size - 1}; got {self.indices!r}")
        output = (*input_shape[:axis], *indices.shape, *input_shape[axis + 1 :])
        if not output:
            raise ShapeError(f"leaves no axis of a sample of shape {tuple(input_shape)}; write the index as a list")
        return output

    def _axis(self, shape: Shape) -> int:
        return sample_axis(self.axis, shape[1:]) + 1

    def forward(self, x, *, training):
        return functional.gather(x, _as_indices(self.indices), self._axis(x.shape)), x.shape

    def backward(self, dy, cache):
        return functional.gather_backward(dy, cache, _as_indices(self.indices), self._axis(cache))

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Gather", *inputs, _as_indices(self.indices), axis=self.axis)
