"""Activations: elementwise functions of any shape, and Softmax along an axis."""

import numpy as np

from .. import functional
from ..errors import ConfigError, ShapeError
from ..layer import Layer, OnnxGraph, Shape

_SHAPES: tuple[tuple[dict, Shape], ...] = (({}, (3, 4, 5)), ({}, (7,)))


class ReLU(Layer):
    """`y = max(x, 0)`; `dx = dy` where y > 0, else 0."""

    examples = _SHAPES

    def forward(self, x, *, training):
        y = functional.relu(x)
        return y, y

    def backward(self, dy, cache):
        return functional.relu_backward(dy, cache)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Relu", *inputs)


class Sigmoid(Layer):
    """`y = 1 / (1 + e^-x)`; `dx = dy y (1 - y)`."""

    examples = _SHAPES

    def forward(self, x, *, training):
        y = functional.sigmoid(x)
        return y, y

    def backward(self, dy, cache):
        return functional.sigmoid_backward(dy, cache)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Sigmoid", *inputs)


class Tanh(Layer):
    """`y = tanh x`; `dx = dy (1 - y^2)`."""

    examples = _SHAPES

    def forward(self, x, *, training):
        y = functional.tanh(x)
        return y, y

    def backward(self, dy, cache):
        return functional.tanh_backward(dy, cache)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Tanh", *inputs)


class Softmax(Layer):
    """`y_i = e^(x_i - max x) / sum_j e^(x_j - max x)` along `axis`; `dx = y (dy - sum_j dy_j y_j)`.

    `axis` counts the batch axis: 1 is the channels of an image or the features of a vector.
    """

    examples = (({}, (7,)), ({}, (3, 4, 5)), ({"axis": -1}, (3, 4, 5)))

    def __init__(self, axis: int = 1) -> None:
        if isinstance(axis, bool) or not isinstance(axis, int) or axis == 0:
            raise ConfigError(f"axis is an int other than 0, the batch; got {axis!r}")
        self.axis = axis

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if not -len(input_shape) <= self.axis <= len(input_shape):
            raise ShapeError(f"axis {self.axis} is outside a batch of samples of shape {tuple(input_shape)}")
        return input_shape

    def forward(self, x, *, training):
        y = functional.softmax(x, self.axis)
        return y, y

    def backward(self, dy, cache):
        return functional.softmax_backward(dy, cache, self.axis)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Softmax", *inputs, axis=self.axis)
