"""A layer in a package of its own: found through its entry point, and imported when somebody asks for "swish"."""

import numpy as np

import convlayers as cl


class Swish(cl.Layer):
    """`y = x sigmoid(b_c x)`, one trained slope `b_c` a channel (Ramachandran, Zoph and Le 2017).

    x `(N, C, ...)` to the same shape; `slope` is `(C,)` and starts at `slope`. With `s = sigmoid(b x)`:
    `dx = dy (s + b x s (1 - s))` and `db_c = sum dy x^2 s (1 - s)` over everything but the channels.
    """

    examples = (({}, (3, 4, 5)), ({"slope": 0.5}, (7,)))

    def __init__(self, slope=1.0):
        self.slope = slope

    def build(self, input_shape, rng):
        self.params["slope"] = np.full(input_shape[0], self.slope, np.float32)
        return input_shape

    def _per_channel(self, x):
        return self.params["slope"].astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 2))

    def forward(self, x, *, training):
        s = 0.5 + 0.5 * np.tanh(0.5 * self._per_channel(x) * x)
        return x * s, (x, s)

    def backward(self, dy, cache):
        x, s = cache
        bend = s * (1 - s)
        self.grads["slope"] += (dy * x * x * bend).sum(axis=(0, *range(2, x.ndim)))
        return dy * (s + self._per_channel(x) * x * bend)

    def to_onnx(self, graph, *inputs):
        # One node in the file, called "swish", which comes back whole where this package is installed.
        return graph.function(self, inputs, self._operators)

    def _operators(self, graph, x):
        axes = len(graph.shape(x)) - 1
        slope = self.params["slope"]
        if axes:
            slope = graph.op("Reshape", slope, np.array([-1] + [1] * axes, np.int64))
        return graph.op("Mul", x, graph.op("Sigmoid", graph.op("Mul", slope, x)))
