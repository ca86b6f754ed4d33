"""Lp pooling."""

import math

import numpy as np

from .. import functional
from ..layer import OnnxGraph
from ..shapes import IntOrSequence, Padding, features
from ._checks import number
from ._pooling import _Pool, mean_node


class LpPool2d(_Pool):
    """The p-norm of each window: `y = (sum_rs |x_rs|^p)^(1/p)`; 1 is the sum of magnitudes, infinity would be their maximum.

    x `(N, C, H, W)` to `(N, C, P, Q)`. `dx = dy (|x| / y)^(p-1) sign(x)`, and 0 where y is 0, as in PyTorch. The magnitude is
    taken for every p, as in ONNX `LpPool`; PyTorch leaves it out, which differs for odd p and values below 0. `p` is a number
    of at least 1; the other arguments as for `MaxPool2d`; padding counts as zeros. Sermanet, Chintala and LeCun 2012.
    """

    rank = 2
    examples = (
        ({"p": 2, "kernel_size": 2}, (3, 6, 8)),
        ({"p": 3, "kernel_size": [3, 2], "stride": 2, "padding": 1}, (2, 7, 6)),
        ({"p": 1, "kernel_size": 3, "stride": 2, "ceil_mode": True}, (2, 8, 5)),
        ({"p": 2.5, "kernel_size": 3, "padding": "same"}, (2, 1, 1)),
    )

    def __init__(
        self,
        p: float,
        kernel_size: IntOrSequence,
        *,
        stride: IntOrSequence | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
    ) -> None:
        self.p = number(p, "p", "at least 1 and finite", lambda v: 1 <= v < math.inf)
        super().__init__(kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode)

    def forward(self, x, *, training):
        win = self._window(x.shape[2:])
        y = functional.lp_pool(x, win, float(self.p))
        return y, (x, y, win)

    def backward(self, dy, cache):
        x, y, win = cache
        return functional.lp_pool_backward(dy, x, y, win, float(self.p))

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        # LpPool's own p is an int, and it has no ceil_mode before opset 18.
        size = graph.shape(inputs[0])[1:]
        win = self._window(size)
        powers = graph.op("Pow", graph.op("Abs", *inputs), np.array(self.p, np.float32))
        sums = graph.op("Mul", mean_node(graph, powers, size, win), np.array(features(win.kernel), np.float32))
        return graph.op("Pow", sums, np.array(1 / self.p, np.float32))
