"""Local response normalization."""

import math
from typing import Any

import numpy as np

from .. import functional
from ..layer import Layer, OnnxGraph, Shape
from ..shapes import positive
from ._checks import channels_and_size, finite, number


class LRN(Layer):
    """Local response normalization across channels (Krizhevsky, Sutskever and Hinton 2012), as ONNX `LRN`.

    `y_c = x_c / s_c^beta` with `s_c = bias + alpha / size sum_d x_d^2` over the `size` channels d from
    `c - floor((size - 1) / 2)` to `c + ceil((size - 1) / 2)`, as far as there are such. x `(N, C, ...)` with a spatial axis or
    more. `dx_c = dy_c s_c^-beta - 2 alpha beta / size x_c sum_d dy_d y_d / s_d` over the channels d whose sums hold c.
    PyTorch's `LocalResponseNorm` is the same for odd sizes. `alpha` is at least 0, `bias` above 0.
    """

    replays = True
    examples = (
        ({"size": 3}, (5, 4, 3)),
        ({"size": 4, "alpha": 0.5, "beta": 1.25, "bias": 2}, (6, 2, 3)),
        ({"size": 9, "alpha": 1.0}, (3, 4)),
        ({"size": 1, "alpha": 0.25, "beta": 0.5}, (2, 1, 2, 3)),
    )

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> None:
        self.size = positive(size, "size")
        self.alpha = number(alpha, "alpha", "at least 0 and finite", lambda v: 0 <= v < math.inf)
        self.beta = finite(beta, "beta")
        self.bias = number(bias, "bias", "greater than 0 and finite", lambda v: 0 < v < math.inf)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        channels_and_size(input_shape)
        return input_shape

    def forward(self, x, *, training):
        y, s = functional.lrn(x, self.size, float(self.alpha), float(self.beta), float(self.bias))
        return y, (x, y, s)

    def backward(self, dy, cache):
        x, y, s = cache
        return functional.lrn_backward(dy, x, y, s, self.size, float(self.alpha), float(self.beta))

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        (x,), shape = inputs, graph.shape(inputs[0])
        alpha, beta, bias = float(self.alpha), float(self.beta), float(self.bias)
        if len(shape) == 3 and self.size % 2:
            return graph.op("LRN", x, size=int(self.size), alpha=alpha, beta=beta, bias=bias)
        # onnxruntime has the operator for images and odd sizes alone.
        squares = graph.op("Reshape", graph.op("Mul", x, x), np.array([0, 1, shape[0], -1], np.int64))
        before = (self.size - 1) // 2
        window: dict[str, Any] = {"kernel_shape": [self.size, 1], "pads": [before, 0, self.size - 1 - before, 0]}
        means = graph.op("AveragePool", squares, count_include_pad=1, **window)
        means = graph.op("Reshape", means, np.array([0, *shape], np.int64))
        s = graph.op("Add", graph.op("Mul", means, np.array(alpha)), np.array(bias))
        return graph.op("Div", x, graph.op("Pow", s, np.array(beta)))
