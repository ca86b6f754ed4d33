"""What poolings share: the window's arguments, and windows in ONNX."""

from typing import Any, ClassVar

import numpy as np

from .. import functional
from ..layer import Layer, OnnxGraph, Shape
from ..shapes import IntOrSequence, Padding, Window, check_pool, extents, features, window
from ._checks import sample_of_rank, switch


class _Pool(Layer):
    """Base of poolings by a window over `rank` axes.

    `kernel_size`, `stride`, `dilation`: an int or one per axis. `stride=None` means the kernel's size. `padding`: an int, one
    per axis, a `(before, after)` pair per axis, `"same"` (SAME_UPPER) or `"valid"`. `ceil_mode` lets a last window hang over
    the edge, as in PyTorch. A window of padding alone is an error.
    """

    rank: ClassVar[int]
    dilation: IntOrSequence = 1

    def __init__(
        self,
        kernel_size: IntOrSequence,
        *,
        stride: IntOrSequence | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode = switch(ceil_mode, "ceil_mode")
        # Any window checks the arguments themselves; the input is not known yet.
        self._window((1 << 30,) * self.rank)

    def _window(self, size: Shape) -> Window:
        options: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return window(size, self.kernel_size, ceil_mode=self.ceil_mode, **options)

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        channels, *size = sample_of_rank(input_shape, self.rank)
        win = self._window(tuple(size))
        check_pool(tuple(size), win)
        return (channels, *win.output)


def _pads(size: Shape, win: Window) -> list[int]:
    """ONNX's pads: all befores, then all afters, with what `ceil_mode` adds behind written out.

    Runtimes disagree on the last window under `ceil_mode` with padding; written as padding there is nothing to disagree on.
    """
    return [pad for side in zip(*extents(size, win), strict=True) for pad in side]


def max_node(graph: OnnxGraph, x: str, size: Shape, win: Window) -> str:
    """The maximum of each window over x, whose spatial axes have this size."""
    pads = _pads(size, win)
    if any(pad >= kernel for pad, kernel in zip(pads, win.kernel * 2, strict=True)):
        # onnxruntime refuses padding as wide as the kernel, which dilation can need: a node of its own then.
        before, after = pads[: len(size)], pads[len(size) :]
        edges = np.array([0, 0, *before, 0, 0, *after], np.int64)
        x, pads = graph.op("Pad", x, edges, np.array(-np.inf, np.float32)), [0] * len(pads)
    kernel, strides, dilations = map(list, (win.kernel, win.stride, win.dilation))
    return graph.op("MaxPool", x, kernel_shape=kernel, strides=strides, dilations=dilations, pads=pads)


def mean_node(graph: OnnxGraph, x: str, size: Shape, win: Window, count_include_pad: bool = True) -> str:
    """The sum of each window over the kernel's taps, or over its real pixels alone."""
    shape: dict[str, Any] = {"kernel_shape": list(win.kernel), "strides": list(win.stride), "pads": _pads(size, win)}
    return graph.op("AveragePool", x, count_include_pad=int(count_include_pad), **shape)


def average_node(graph: OnnxGraph, x: str, size: Shape, win: Window, count_include_pad: bool) -> str:
    """The average of each window, as `functional.avg_pool` counts."""
    y = mean_node(graph, x, size, win, count_include_pad)
    reach, declared = extents(size, win), win.padding
    if not count_include_pad or all(after <= declared[axis][1] for axis, (_, after) in enumerate(reach)):
        return y
    # The file's padding holds what ceil_mode reaches beyond the declared one, which must not count.
    counts = functional.pool_counts(size, win, count_include_pad)
    return graph.op("Mul", y, (features(win.kernel) / counts).astype(np.float32))
