"""A value of its own in a graph."""

from collections.abc import Sequence

import numpy as np

from .. import functional, kernels
from ..functional.pointwise import add_gradient
from ..kernels import memory
from ..layer import Layer, OnnxGraph, Shape
from ..randomness import NoDraws
from ._checks import integers, switch


class Parameter(Layer):
    """One value for every sample, `y[n] = value`: x `(N, ...)` to `(N, *shape)`, and x tells the size of the batch alone.

    `value` `(*shape)` starts at 0; it is a parameter, or with `trainable=False` a buffer, which is saved and not trained.
    `dvalue = sum_n dy[n]`, `dx = 0`. A position embedding is one, and a mean to subtract (`Subtract`).
    """

    replays = True
    examples = (
        ({"shape": [4, 5]}, (3, 2)),
        ({"shape": [3], "trainable": False}, (7,)),
        ({"shape": [2, 1, 3]}, (3, 4, 5)),
    )

    def __init__(self, shape: Sequence[int], trainable: bool = True) -> None:
        self.shape = integers(shape, "shape", "a list of sizes of at least 1", lambda s: min(s) > 0)
        self.trainable = switch(trainable, "trainable")

    def _value(self) -> np.ndarray:
        return (self.params if self.trainable else self.buffers)["value"]

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        shape = tuple(map(int, self.shape))
        zeros = rng.zeros if isinstance(rng, NoDraws) else np.zeros  # those of a file are counted before memory is taken
        (self.params if self.trainable else self.buffers)["value"] = zeros(shape, np.float32)
        return shape

    def forward(self, x, *, training):
        return functional.repeat(self._value(), len(x), x.dtype), x.shape

    def backward(self, dy, cache):
        self.accumulate(dy, cache)
        return self.backward_input(dy, cache)

    def backward_input(self, dy, cache):
        dx = memory.empty(cache, dy.dtype)
        kernels.run(np.copyto, dx, 0)
        return dx

    def accumulate(self, dy, cache):
        if self.trainable:
            add_gradient(self.grads["value"], functional.repeat_backward(dy))

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        batch = graph.op("Slice", graph.op("Shape", *inputs), np.array([0]), np.array([1]))
        target = graph.op("Concat", batch, np.array(self.shape, np.int64), axis=0)
        return graph.op("Expand", self._value(), target)
