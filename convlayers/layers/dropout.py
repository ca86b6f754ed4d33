"""Dropout: of single values, and of whole channels."""

import numpy as np

from .. import functional, kernels
from ..functional.dropout import fill_dropout_factors
from ..kernels import memory
from ..layer import Layer, OnnxGraph, Shape
from ..randomness import layer_generator, layer_node
from ._checks import channels_and_size, probability


class _Dropout(Layer):
    """`y = x m / (1 - p)` with a mask of zeros and ones; `dx = dy m / (1 - p)`. A subclass says what one draw decides.

    The mask depends on the run's seed, the step and the layer's place, never on what was drawn before.
    """

    replays = True

    def __init__(self, p: float = 0.5) -> None:
        self.p = probability(p, "p")

    def _draws(self, shape: Shape) -> Shape:
        """The shape of the mask for a batch of `shape`."""
        raise NotImplementedError

    def forward(self, x, *, training):
        if not training or self.p == 0:
            return x, None
        factors = memory.empty(self._draws(x.shape), x.dtype)
        kernels.run(self._draw, factors, layer_node())
        return functional.multiply([x, factors]), factors

    def _draw(self, factors: np.ndarray, node: int) -> None:
        fill_dropout_factors(factors, self.p, layer_generator("dropout", node))

    def backward(self, dy, cache):
        return dy if cache is None else functional.multiply([dy, cache])

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Identity", *inputs)


class Dropout(_Dropout):
    """In training `y = x m / (1 - p)` with each `m` 0 with probability `p`, else 1; otherwise `y = x` (Srivastava et al. 2014).

    `dx = dy m / (1 - p)`. The mask depends on the run's seed, the step and the layer's place, never on what was drawn before.
    """

    examples = (({"p": 0.3}, (3, 4, 5)), ({}, (7,)), ({"p": 0.0}, (7,)))

    def _draws(self, shape: Shape) -> Shape:
        return shape


class Dropout2d(_Dropout):
    """Dropout of whole channels: `y[n,c] = x[n,c] m[n,c] / (1 - p)` in training, otherwise `y = x` (Tompson et al. 2015).

    x `(N, C, ...)` with any number of spatial axes; each `m` is 0 with probability `p`, else 1. `dx = dy m / (1 - p)`. For
    images whose neighbouring pixels are so alike that dropping single ones takes nothing away.
    """

    examples = (({"p": 0.3}, (9, 4, 5)), ({}, (6, 1, 1)), ({}, (5, 7)), ({"p": 0.0}, (2, 3, 3)))

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        channels_and_size(input_shape)
        return input_shape

    def _draws(self, shape: Shape) -> Shape:
        return (*shape[:2], *(1,) * len(shape[2:]))
