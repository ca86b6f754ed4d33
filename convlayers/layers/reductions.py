"""Sums and means over axes of a sample."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from .. import functional
from ..errors import ShapeError
from ..layer import Layer, OnnxGraph, Shape
from ._checks import axes_behind_batch, sample_axes, switch


class _Reduce(Layer):
    """Base of reductions: `axes` of a batch, counted from 1, which stay with size 1 under `keepdims` and else go."""

    mean: ClassVar[bool]
    replays = True
    examples = (
        ({"axes": [2, 3]}, (3, 4, 5)),
        ({"axes": [1], "keepdims": False}, (3, 4, 5)),
        ({"axes": [3, 1], "keepdims": False}, (2, 3, 4)),
        ({"axes": [1]}, (7,)),
    )

    def __init__(self, axes: Sequence[int], keepdims: bool = True) -> None:
        self.axes = axes_behind_batch(axes)
        self.keepdims = switch(keepdims, "keepdims")

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        reduced = sample_axes(self.axes, input_shape)
        if self.keepdims:
            return tuple(1 if axis in reduced else n for axis, n in enumerate(input_shape))
        if len(reduced) == len(input_shape):
            raise ShapeError(f"leaves no axis of a sample of shape {tuple(input_shape)}; use keepdims=True")
        return tuple(n for axis, n in enumerate(input_shape) if axis not in reduced)

    def forward(self, x, *, training):
        y = functional.reduce_sum(x, self.axes, mean=self.mean)
        return y if self.keepdims else y.squeeze(tuple(self.axes)), x.shape

    def backward(self, dy, cache):
        kept = dy if self.keepdims else np.expand_dims(dy, tuple(self.axes))
        return functional.reduce_sum_backward(kept, cache, self.axes, mean=self.mean)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        keepdims = int(self.keepdims)
        if self.mean and graph.opset < 18:
            return graph.op("ReduceMean", *inputs, axes=list(map(int, self.axes)), keepdims=keepdims)
        return graph.op("ReduceMean" if self.mean else "ReduceSum", *inputs, np.array(self.axes, np.int64), keepdims=keepdims)


class ReduceSum(_Reduce):
    """The sum over `axes`: `dx = dy` for every value of a sum.

    `axes`: a list that counts the batch, from 1 on: `[2, 3]` are height and width of images. They stay as axes of size 1, or
    go with `keepdims=False`, which must leave an axis.
    """

    mean = False


class ReduceMean(_Reduce):
    """The mean over `axes`: `dx = dy / n` for every one of its n values. Arguments as for `ReduceSum`."""

    mean = True
