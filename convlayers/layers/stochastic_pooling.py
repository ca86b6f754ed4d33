"""Stochastic pooling."""

import numpy as np

from .. import functional
from ..layer import OnnxGraph
from ..randomness import layer_generator
from ._pooling import _Pool, mean_node


class StochasticPool2d(_Pool):
    """One activation of each window, drawn with probability proportional to it (Zeiler and Fergus 2013).

    x `(N, C, H, W)` to `(N, C, P, Q)`. In training `y = x_l` with `P(l) = x_l / sum x`, and `dx` is `dy` at the drawn one;
    otherwise the mean under these probabilities, `y = sum x^2 / sum x`, and `dx = dy (2 x - y) / sum x`. A window of zeros
    gives 0 and no gradient. Padding is never drawn.

    Probabilities are not negative: in training a value below 0 is an error, put a ReLU in front. In inference it counts as 0,
    since an exported file computes the same and can raise no error. Draws depend on the run's seed, the step and the layer's
    place. Arguments as for `MaxPool2d`.
    """

    rank = 2
    nonnegative = True
    examples = (
        ({"kernel_size": 2}, (3, 6, 8)),
        ({"kernel_size": 3, "stride": 2, "padding": 1}, (2, 7, 5)),
        ({"kernel_size": [3, 2], "stride": 2, "ceil_mode": True}, (2, 6, 7)),
        ({"kernel_size": 3, "padding": "same"}, (2, 1, 1)),
    )

    def forward(self, x, *, training):
        win = self._window(x.shape[2:])
        if not training:
            y, total = functional.expected_pool(x, win)
            return y, (False, (x, y, total, win))
        draws = layer_generator("stochastic_pool").random((*x.shape[:2], *win.output), dtype=np.float32)
        y, index = functional.stochastic_pool(x, win, draws)
        return y, (True, (y, index, x.shape, win))

    def backward(self, dy, cache):
        training, values = cache
        return (functional.stochastic_pool_backward if training else functional.expected_pool_backward)(dy, *values)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        positive, size, win = self._laid_out(graph, graph.op("Relu", *inputs), graph.shape(inputs[0])[1:])
        total = mean_node(graph, positive, size, win)
        squares = mean_node(graph, graph.op("Mul", positive, positive), size, win)
        nothing = graph.op("Equal", total, np.array(0, np.float32))
        return graph.op("Div", squares, graph.op("Where", nothing, np.array(1, np.float32), total))
