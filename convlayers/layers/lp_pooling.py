"""Lp pooling."""

import math
from typing import ClassVar

import numpy as np

from .. import functional
from ..layer import OnnxGraph
from ..shapes import IntOrSequence, Padding, features, window
from ._checks import number
from ._pooling import _DilatedPool, mean_node
from .global_pooling import _GlobalPool


def _norm(p: float) -> float:
    return number(p, "p", "at least 1 and finite", lambda v: 1 <= v < math.inf)


def _powers(graph: OnnxGraph, x: str, p: float) -> str:
    return graph.op("Pow", graph.op("Abs", x), np.array(p, np.float32))


class _LpPool(_DilatedPool):
    """Base of Lp poolings: `y[q] = (sum_r |x[q s + r d - pad]|^p)^(1/p)`, with q and r over `rank` axes."""

    replays = True

    def __init__(
        self,
        p: float,
        kernel_size: IntOrSequence,
        *,
        stride: IntOrSequence | None = None,
        padding: Padding = 0,
        dilation: IntOrSequence = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.p = _norm(p)
        super().__init__(kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)

    def forward(self, x, *, training):
        win = self._window(x.shape[2:])
        y = functional.lp_pool(x, win, float(self.p))
        return y, (x, y, win)

    def backward(self, dy, cache):
        x, y, win = cache
        return functional.lp_pool_backward(dy, x, y, win, float(self.p))

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        # LpPool's own p is an int, and it has no ceil_mode and no dilations before opset 18.
        channels, *sizes = graph.shape(inputs[0])
        x, size, win = self._laid_out(graph, _powers(graph, inputs[0], self.p), tuple(sizes))
        means = mean_node(graph, x, size, win, channels=channels)
        sums = graph.op("Mul", means, np.array(features(win.kernel), np.float32))
        return graph.op("Pow", sums, np.array(1 / self.p, np.float32))


class LpPool1d(_LpPool):
    """The p-norm of each window of a signal, x `(N, C, L)` to `(N, C, P)`. Arguments and gradient as for `LpPool2d`."""

    rank = 1
    examples = (
        ({"p": 2, "kernel_size": 2}, (3, 8)),
        ({"p": 3, "kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2}, (2, 9)),
        ({"p": 1.5, "kernel_size": [4], "stride": 3, "padding": [[0, 1]], "ceil_mode": True}, (2, 11)),
    )


class LpPool2d(_LpPool):
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
        ({"p": 2, "kernel_size": [2, 3], "stride": 1, "padding": [[1, 0], [0, 2]], "dilation": [3, 2]}, (2, 6, 7)),
    )


class LpPool3d(_LpPool):
    """The p-norm of each window of a volume, x `(N, C, D, H, W)` to `(N, C, O, P, Q)`; otherwise as `LpPool2d`."""

    rank = 3
    examples = (
        ({"p": 2, "kernel_size": 2}, (2, 4, 5, 6)),
        ({"p": 3, "kernel_size": [3, 2, 2], "stride": 2, "padding": [1, 0, 1], "ceil_mode": True}, (1, 4, 3, 5)),
        ({"p": 1, "kernel_size": 2, "stride": 1, "dilation": [1, 2, 3]}, (1, 3, 4, 5)),
    )


class _GlobalLpPool(_GlobalPool):
    """Base of global Lp poolings: one window, that is all of a channel."""

    replays = True

    def __init__(self, p: float = 2.0) -> None:
        self.p = _norm(p)

    def forward(self, x, *, training):
        win = window(x.shape[2:], x.shape[2:])
        y = functional.lp_pool(x, win, float(self.p))
        return y, (x, y, win)

    def backward(self, dy, cache):
        x, y, win = cache
        return functional.lp_pool_backward(dy, x, y, win, float(self.p))

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        axes = np.arange(2, self.rank + 2, dtype=np.int64)
        sums = graph.op("ReduceSum", _powers(graph, inputs[0], self.p), axes, keepdims=1)
        return graph.op("Pow", sums, np.array(1 / self.p, np.float32))


class GlobalLpPool1d(_GlobalLpPool):
    """The p-norm of each channel of a signal, x `(N, C, L)` to `(N, C, 1)`; `p` and gradient as for `LpPool2d`."""

    rank: ClassVar[int] = 1
    examples = (({}, (3, 7)), ({"p": 3}, (5, 1)))


class GlobalLpPool2d(_GlobalLpPool):
    """The p-norm of each channel of an image, x `(N, C, H, W)` to `(N, C, 1, 1)`; `p` and gradient as for `LpPool2d`."""

    rank: ClassVar[int] = 2
    examples = (({}, (3, 6, 8)), ({"p": 1.5}, (2, 1, 3)))


class GlobalLpPool3d(_GlobalLpPool):
    """The p-norm of each channel of a volume, x `(N, C, D, H, W)` to `(N, C, 1, 1, 1)`; `p` and gradient as for `LpPool2d`."""

    rank: ClassVar[int] = 3
    examples = (({}, (2, 3, 4, 5)), ({"p": 1}, (2, 1, 2, 3)))
