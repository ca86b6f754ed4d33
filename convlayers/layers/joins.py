"""Joins of a graph: layers with several inputs."""

from functools import reduce

import numpy as np

from .. import functional
from ..errors import ShapeError
from ..layer import Layer, OnnxGraph, Shape


class Add(Layer):
    """The sum of two or more inputs of one shape; each gets the gradient as it is."""

    joins = True
    examples = (({}, [(3, 4, 5), (3, 4, 5)]), ({}, [(7,), (7,), (7,)]))

    def build(self, input_shape: list[Shape], rng: np.random.Generator) -> Shape:
        if len(input_shape) < 2:
            raise ShapeError(f"takes two inputs or more; got {len(input_shape)}")
        if any(shape != input_shape[0] for shape in input_shape):
            raise ShapeError(f"takes inputs of one shape; got {', '.join(map(str, input_shape))}")
        return input_shape[0]

    def forward(self, x, *, training):
        return functional.add(x), len(x)

    def backward(self, dy, cache):
        return [dy] * cache

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return reduce(lambda a, b: graph.op("Add", a, b), inputs)
