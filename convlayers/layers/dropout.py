"""Dropout."""

import numpy as np

from ..layer import Layer, OnnxGraph
from ..randomness import layer_generator
from ._checks import probability


class Dropout(Layer):
    """In training `y = x m / (1 - p)` with each `m` 0 with probability `p`, else 1; otherwise `y = x` (Srivastava et al. 2014).

    The mask depends on the run's seed, the step and the layer's place, never on what was drawn before.
    """

    examples = (({"p": 0.3}, (3, 4, 5)), ({}, (7,)), ({"p": 0.0}, (7,)))

    def __init__(self, p: float = 0.5) -> None:
        self.p = probability(p, "p")

    def forward(self, x, *, training):
        if not training or self.p == 0:
            return x, None
        kept = layer_generator("dropout").random(x.shape, dtype=np.float32) >= self.p
        scale = kept * x.dtype.type(1 / (1 - self.p))
        return x * scale, scale

    def backward(self, dy, cache):
        return dy if cache is None else dy * cache

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Identity", *inputs)
