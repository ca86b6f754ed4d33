"""Softmax and its logarithm, along an axis."""

from typing import ClassVar

import numpy as np

from .. import functional
from ..layer import Layer, OnnxGraph, Shape
from ._checks import batch_axis, sample_axis


class _Softmax(Layer):
    log: ClassVar[bool]
    replays = True
    examples = (({}, (7,)), ({}, (3, 4, 5)), ({"axis": -1}, (3, 4, 5)), ({"axis": 2}, (2, 67, 3)), ({}, (1, 2)))

    def __init__(self, axis: int = 1) -> None:
        self.axis = batch_axis(axis)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        sample_axis(self.axis, input_shape)
        return input_shape

    def forward(self, x, *, training):
        y = functional.softmax(x, self.axis, log=self.log)
        return y, y

    def backward(self, dy, cache):
        return functional.softmax_backward(dy, cache, self.axis, log=self.log)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("LogSoftmax" if self.log else "Softmax", *inputs, axis=self.axis)


class Softmax(_Softmax):
    """`y_i = e^(x_i - max x) / sum_j e^(x_j - max x)` along `axis`; `dx = y (dy - sum_j dy_j y_j)`.

    `axis` counts the batch axis: 1 is the channels of an image or the features of a vector.
    """

    log = False


class LogSoftmax(_Softmax):
    """The logarithm of `Softmax`: `y_i = x_i - max x - log sum_j e^(x_j - max x)`; `dx = dy - e^y sum_j dy_j`."""

    log = True
