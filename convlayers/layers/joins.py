"""Concatenation."""

import numpy as np

from .. import functional
from ..errors import ShapeError
from ..layer import Layer, OnnxGraph, Shape
from ._checks import batch_axis, sample_axis, several


class Concat(Layer):
    """Two or more inputs, one after the other along `axis`; each gets its own part of the gradient.

    `axis` counts the batch axis, as in ONNX and PyTorch; 1 is the channels, which U-Net (Ronneberger, Fischer and Brox 2015)
    and DenseNet (Huang et al. 2017) join. Along every other axis the inputs have one size.
    """

    joins = True
    replays = True
    examples = (
        ({}, [(3, 4, 5), (2, 4, 5)]),
        ({"axis": -1}, [(3, 4, 1), (3, 4, 5), (3, 4, 2)]),
        ({"axis": 2}, [(3, 4, 5), (3, 1, 5)]),
        ({}, [(7,), (1,)]),
    )

    def __init__(self, axis: int = 1) -> None:
        self.axis = batch_axis(axis)

    def build(self, input_shape: list[Shape], rng: np.random.Generator) -> Shape:
        shapes = several(input_shape)
        axis = sample_axis(self.axis, shapes[0])
        if len({(*shape[:axis], *shape[axis + 1 :], len(shape)) for shape in shapes}) > 1:
            raise ShapeError(
                f"takes inputs of one shape apart from axis {self.axis} of the batch; got {', '.join(map(str, shapes))}"
            )
        return (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])

    def forward(self, x, *, training):
        return functional.concat(x, self.axis), [array.shape[self.axis] for array in x]

    def backward(self, dy, cache):
        return functional.split(dy, cache, self.axis)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Concat", *inputs, axis=self.axis)
