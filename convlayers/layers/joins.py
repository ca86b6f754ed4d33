"""Joins of a graph: layers with several inputs."""

from functools import reduce

import numpy as np

from .. import functional
from ..errors import ShapeError
from ..layer import Layer, OnnxGraph, Shape
from ._checks import batch_axis, sample_axis


def _several(shapes: list[Shape]) -> list[Shape]:
    if len(shapes) < 2:
        raise ShapeError(f"takes two inputs or more; got {len(shapes)}")
    return [tuple(shape) for shape in shapes]


class Add(Layer):
    """The sum of two or more inputs of one shape; each gets the gradient as it is."""

    joins = True
    examples = (({}, [(3, 4, 5), (3, 4, 5)]), ({}, [(7,), (7,), (7,)]))

    def build(self, input_shape: list[Shape], rng: np.random.Generator) -> Shape:
        first, *others = _several(input_shape)
        if any(shape != first for shape in others):
            raise ShapeError(f"takes inputs of one shape; got {', '.join(map(str, input_shape))}")
        return first

    def forward(self, x, *, training):
        return functional.add(x), len(x)

    def backward(self, dy, cache):
        return [dy] * cache

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return reduce(lambda a, b: graph.op("Add", a, b), inputs)


class Multiply(Layer):
    """The product of two or more inputs of one rank, `y = x_1 x_2 ... x_k`; an axis of size 1 is repeated to meet the others.

    `dx_i = dy prod_(j != i) x_j`, summed over the axes along which x_i was repeated. With gates `(C, 1, 1)` for images
    `(C, H, W)` it is the scaling of squeeze-and-excitation (Hu, Shen and Sun 2018).
    """

    joins = True
    examples = (
        ({}, [(3, 4, 5), (3, 4, 5)]),
        ({}, [(3, 4, 5), (3, 1, 1)]),
        ({}, [(1, 4, 1), (3, 1, 5), (1, 1, 1)]),
        ({}, [(7,), (1,)]),
    )

    def build(self, input_shape: list[Shape], rng: np.random.Generator) -> Shape:
        shapes = _several(input_shape)
        axes = list(zip(*shapes, strict=False))
        if len({len(shape) for shape in shapes}) > 1 or any(len({*sizes} - {1}) > 1 for sizes in axes):
            raise ShapeError(
                f"takes inputs of one rank, along each axis of one size or of size 1; got {', '.join(map(str, shapes))}"
            )
        return tuple(map(max, axes))

    def forward(self, x, *, training):
        return functional.multiply(x), x

    def backward(self, dy, cache):
        return functional.multiply_backward(dy, cache)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return reduce(lambda a, b: graph.op("Mul", a, b), inputs)


class Concat(Layer):
    """Two or more inputs, one after the other along `axis`; each gets its own part of the gradient.

    `axis` counts the batch axis, as in ONNX and PyTorch; 1 is the channels, which U-Net (Ronneberger, Fischer and Brox 2015)
    and DenseNet (Huang et al. 2017) join. Along every other axis the inputs have one size.
    """

    joins = True
    examples = (
        ({}, [(3, 4, 5), (2, 4, 5)]),
        ({"axis": -1}, [(3, 4, 1), (3, 4, 5), (3, 4, 2)]),
        ({"axis": 2}, [(3, 4, 5), (3, 1, 5)]),
        ({}, [(7,), (1,)]),
    )

    def __init__(self, axis: int = 1) -> None:
        self.axis = batch_axis(axis)

    def build(self, input_shape: list[Shape], rng: np.random.Generator) -> Shape:
        shapes = _several(input_shape)
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
