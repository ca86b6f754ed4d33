"""What poolings share: the window's arguments, and windows in ONNX."""

from typing import Any, ClassVar

import numpy as np

from .. import functional
from ..errors import ExportError
from ..layer import Layer, OnnxGraph, Shape
from ..shapes import IntOrSequence, Padding, Window, check_pool, extents, features, window
from ._checks import sample_of_rank, switch
from ._open_sizes import lay_out

_SINCE_DILATIONS = 19  # the opset from which AveragePool has them


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

    def _laid_out(self, graph: OnnxGraph, x: str, size: Shape, filling: float = 0.0) -> tuple[str, Shape, Window]:
        """x, of this size and with `filling` around it, its size and the window over it, for the nodes below."""
        return lay_out(graph, x, size, self._window(size), self.padding, filling, self.ceil_mode)


class _DilatedPool(_Pool):
    """Base of poolings whose windows may have gaps: `dilation`, an int or one per axis, is the distance of their pixels."""

    def __init__(
        self,
        kernel_size: IntOrSequence,
        *,
        stride: IntOrSequence | None = None,
        padding: Padding = 0,
        dilation: IntOrSequence = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.dilation = dilation
        super().__init__(kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode)


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


def _convolved(graph: OnnxGraph, size: Shape, win: Window) -> bool:
    """Whether a dilated window's sum is a convolution in the file: onnxruntime takes no padding as wide as the kernel here."""
    wide = any(pad >= kernel for pad, kernel in zip(_pads(size, win), win.kernel * 2, strict=True))
    return max(win.dilation) > 1 and (wide or graph.opset < _SINCE_DILATIONS)


def mean_node(
    graph: OnnxGraph, x: str, size: Shape, win: Window, count_include_pad: bool = True, channels: int | None = None
) -> str:
    """The sum of each window over the kernel's taps, or over its real pixels alone; a dilated window needs the `channels`."""
    shape: dict[str, Any] = {"kernel_shape": list(win.kernel), "strides": list(win.stride), "pads": _pads(size, win)}
    if channels is not None and max(win.dilation) > 1:
        shape["dilations"] = list(win.dilation)
        if _convolved(graph, size, win):
            weight = np.full((channels, 1, *win.kernel), 1 / features(win.kernel), np.float32)
            return graph.op("Conv", x, weight, group=channels, **shape)
    return graph.op("AveragePool", x, count_include_pad=int(count_include_pad), **shape)


def average_node(pool: _Pool, graph: OnnxGraph, x: str, count_include_pad: bool) -> str:
    """The average of each window, as `functional.avg_pool` counts."""
    channels, *sizes = graph.shape(x)
    by_size = ExportError("its windows' pixels are counted by the image's size, which must stay open; set ceil_mode=False")
    if graph.dynamic_image and (pool.ceil_mode or (pool.padding == "same" and not count_include_pad)):
        raise by_size
    x, size, win = pool._laid_out(graph, x, tuple(sizes))
    y = mean_node(graph, x, size, win, count_include_pad, channels)
    reach, declared = extents(size, win), win.padding
    beyond = any(after > declared[axis][1] for axis, (_, after) in enumerate(reach))
    if not _convolved(graph, size, win) and not (count_include_pad and beyond):
        return y
    # The file's padding holds what ceil_mode reaches beyond the declared one, which must not count; a convolution counts all.
    counts = functional.pool_counts(size, win, count_include_pad)
    if graph.dynamic_image and counts.min() != counts.max():
        raise by_size
    return graph.op("Mul", y, (features(win.kernel) / counts).astype(np.float32))
