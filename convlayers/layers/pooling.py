"""Pooling: a window slides over each channel on its own; no parameters."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import functional
from ..layer import Layer, OnnxGraph, Shape
from ..shapes import IntOrSequence, Padding, Window, check_pool, features, window
from ._checks import image_shape, switch

_ANY_SIZE = (1 << 30,) * 2


def _pooled(input_shape: Shape, window_of: Callable[[Shape], Window]) -> Shape:
    """The output's shape of a pooling, checked."""
    channels, *size = image_shape(input_shape)
    win = window_of(tuple(size))
    check_pool(tuple(size), win)
    return (channels, *win.output)


def _pads(size: Shape, win: Window) -> list[int]:
    """ONNX's pads: all befores, then all afters, with what `ceil_mode` adds behind written out.

    Runtimes disagree on the last window under `ceil_mode` with padding; written as padding there is nothing to disagree on.
    """
    before = [b for b, _ in win.padding]
    reach = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(win.output, win.stride, win.dilation, win.kernel, strict=True)]
    after = [max(r - n - b, 0) for r, n, b in zip(reach, size, before, strict=True)]
    return before + after


class MaxPool2d(Layer):
    """The maximum of each window: `y[p,q] = max_rs x[p s + r d - pad, q s + s' d - pad]`.

    x `(N, C, H, W)` to `(N, C, P, Q)`. Padding counts as minus infinity; the first maximum in row order gets the
    gradient. `stride=None` means the kernel's size. `ceil_mode` lets a last window hang over the edge, as in PyTorch.
    """

    examples = (
        ({"kernel_size": 2}, (3, 6, 8)),
        ({"kernel_size": 3, "stride": 2, "padding": 1}, (2, 7, 8)),
        ({"kernel_size": [2, 3], "stride": [1, 2], "dilation": 2, "padding": [[0, 1], [1, 1]]}, (2, 7, 9)),
        ({"kernel_size": 3, "stride": 2, "ceil_mode": True}, (2, 8, 6)),
        ({"kernel_size": 3, "stride": 2, "padding": "same"}, (2, 5, 6)),
    )

    def __init__(
        self,
        kernel_size: IntOrSequence,
        *,
        stride: IntOrSequence | None = None,
        padding: Padding = 0,
        dilation: IntOrSequence = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.ceil_mode = switch(ceil_mode, "ceil_mode")
        self._window(_ANY_SIZE)

    def _window(self, size: Shape) -> Window:
        options: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return window(size, self.kernel_size, ceil_mode=self.ceil_mode, **options)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        return _pooled(input_shape, self._window)

    def forward(self, x, *, training):
        win = self._window(x.shape[2:])
        y, index = functional.max_pool2d(x, win, with_index=training)
        return y, (x if index is None else x.shape, index, win)

    def backward(self, dy, cache):
        x, index, win = cache
        if index is None:
            # Inference leaves the index out; whoever wants a gradient of it pays for it here.
            (_, index), x = functional.max_pool2d(x, win), x.shape
        return functional.max_pool2d_backward(dy, index, x, win)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        size = graph.shape(inputs[0])[1:]
        win = self._window(size)
        pads, x = _pads(size, win), inputs[0]
        if any(pad >= kernel for pad, kernel in zip(pads, win.kernel * 2, strict=True)):
            # onnxruntime refuses padding as wide as the kernel, which dilation can need: a node of its own then.
            edges = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)
            x, pads = graph.op("Pad", x, edges, np.array(-np.inf, np.float32)), [0] * 4
        return graph.op(
            "MaxPool",
            x,
            kernel_shape=list(win.kernel),
            strides=list(win.stride),
            dilations=list(win.dilation),
            pads=pads,
        )


class AvgPool2d(Layer):
    """The average of each window: `y[p,q] = (1/n_pq) sum_rs x[p s + r - pad, q s + s' - pad]`.

    x `(N, C, H, W)` to `(N, C, P, Q)`. `n_pq` counts the window's pixels: padding too under `count_include_pad` (PyTorch's
    default), but never what `ceil_mode` reaches beyond it. `stride=None` means the kernel's size.
    """

    examples = (
        ({"kernel_size": 2}, (3, 6, 8)),
        ({"kernel_size": 3, "stride": 2, "padding": 1}, (2, 7, 8)),
        ({"kernel_size": [2, 3], "stride": [1, 2], "padding": [[0, 1], [1, 2]], "count_include_pad": False}, (2, 7, 9)),
        ({"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, (2, 8, 6)),
        ({"kernel_size": 3, "stride": 2, "ceil_mode": True, "count_include_pad": False}, (2, 8, 6)),
    )

    def __init__(
        self,
        kernel_size: IntOrSequence,
        *,
        stride: IntOrSequence | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode, self.count_include_pad = switch(ceil_mode, "ceil_mode"), switch(count_include_pad, "count_include_pad")
        self._window(_ANY_SIZE)

    def _window(self, size: Shape) -> Window:
        return window(size, self.kernel_size, stride=self.stride, padding=self.padding, ceil_mode=self.ceil_mode)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        return _pooled(input_shape, self._window)

    def forward(self, x, *, training):
        win = self._window(x.shape[2:])
        return functional.avg_pool2d(x, win, count_include_pad=self.count_include_pad), (x.shape, win)

    def backward(self, dy, cache):
        return functional.avg_pool2d_backward(dy, *cache, count_include_pad=self.count_include_pad)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        size = graph.shape(inputs[0])[1:]
        win = self._window(size)
        pads = _pads(size, win)
        y = graph.op(
            "AveragePool",
            *inputs,
            kernel_shape=list(win.kernel),
            strides=list(win.stride),
            pads=pads,
            count_include_pad=int(self.count_include_pad),
        )
        declared = [before for before, _ in win.padding] + [after for _, after in win.padding]
        if not self.count_include_pad or all(p <= d for p, d in zip(pads, declared, strict=True)):
            return y
        # The file's padding holds what ceil_mode reaches beyond the declared one, which must not count.
        counts = functional.pool_counts(size, win, self.count_include_pad)
        return graph.op("Mul", y, (features(win.kernel) / counts).astype(np.float32))


class GlobalAvgPool2d(Layer):
    """The average of each channel: `y = (1/(H W)) sum_hw x[h,w]`; `dx = dy / (H W)` for every pixel.

    x `(N, C, H, W)` to `(N, C, 1, 1)`, for images of any size. The head of ResNet (He et al. 2015), after Lin et al. 2013.
    """

    examples = (({}, (3, 6, 8)), ({}, (18, 1, 1)), ({}, (2, 7, 5)))

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        channels, *_ = image_shape(input_shape)
        return (channels, 1, 1)

    def forward(self, x, *, training):
        return functional.global_avg_pool2d(x), x.shape

    def backward(self, dy, cache):
        return functional.global_avg_pool2d_backward(dy, cache)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("GlobalAveragePool", *inputs)
