"""Adaptive pooling: the output's size is given, and the windows divide the input among them."""

from typing import ClassVar

import numpy as np

from .. import functional
from ..errors import ExportError
from ..layer import Layer, OnnxGraph, Shape
from ..shapes import IntOrSequence, Window, cells, features, per_axis, window
from ._checks import sample_of_rank
from ._pooling import max_node, mean_node


class _AdaptivePool(Layer):
    """Base of adaptive poolings over `rank` axes: x `(N, C, *size)` to `(N, C, *output_size)`.

    Window i of an axis is `floor(i size / outputs)` to `ceil((i + 1) size / outputs)`, as in PyTorch; neighbours share a
    pixel where the sizes do not divide. `output_size`: an int or one per axis, at most the input's size.
    """

    rank: ClassVar[int]
    _filling: ClassVar[float]

    def __init__(self, output_size: IntOrSequence) -> None:
        self.output_size = output_size
        self._output()

    def _output(self) -> tuple[int, ...]:
        return per_axis(self.output_size, self.rank, "output_size")

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        channels, *size = sample_of_rank(input_shape, self.rank)
        cells(tuple(size), self._output())
        return (channels, *self._output())

    def _global(self, graph: OnnxGraph) -> bool:
        """Whether the one window is the whole image, whose size is open; with more windows the size must be known."""
        if graph.dynamic_image and max(self._output()) > 1:
            raise ExportError(f"output_size {self.output_size} needs an image of known size; only 1 leaves it open")
        return graph.dynamic_image

    def _side_by_side(self, graph: OnnxGraph, x: str) -> tuple[str, Shape, Window]:
        """x with its windows side by side, each as long as the longest; its size, and the ordinary window over it."""
        size = graph.shape(x)[1:]
        taps = functional.adaptive_taps(size, self._output())
        odd = [axis for axis, (n, t) in enumerate(zip(size, taps, strict=True)) if t.size != n]
        if odd:
            behind = np.array([0] * (self.rank + 4) + [int(axis in odd) for axis in range(self.rank)], np.int64)
            x = graph.op("Pad", x, behind, np.array(self._filling, np.float32))
        for axis in odd:
            x = graph.op("Gather", x, taps[axis].ravel(), axis=axis + 2)
        covered = tuple(t.size for t in taps)
        return x, covered, window(covered, tuple(t.shape[1] for t in taps))


class _AdaptiveMaxPool(_AdaptivePool):
    """Base of adaptive max poolings; the first maximum in row order gets the gradient."""

    _filling = -np.inf
    replays = True

    def forward(self, x, *, training):
        y, index = functional.adaptive_max_pool(x, self._output())
        return y, (index, x.shape)

    def backward(self, dy, cache):
        return functional.adaptive_max_pool_backward(dy, *cache)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        if self._global(graph):
            return graph.op("GlobalMaxPool", *inputs)
        return max_node(graph, *self._side_by_side(graph, *inputs))


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """The maxima of `output_size` windows of a signal, x `(N, C, L)` to `(N, C, P)`; windows as for `AdaptiveMaxPool2d`."""

    rank = 1
    examples = (({"output_size": 3}, (2, 7)), ({"output_size": [4]}, (3, 8)), ({"output_size": 1}, (5, 1)))


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """The maxima of P x Q windows that divide the image among them, x `(N, C, H, W)` to `(N, C, P, Q)`.

    `y[p,q] = max x[floor(p H/P) : ceil((p+1) H/P), floor(q W/Q) : ceil((q+1) W/Q)]`, as in PyTorch; the first maximum in row
    order gets the gradient. `output_size`: an int or one per axis, at most the input's size.
    """

    rank = 2
    examples = (
        ({"output_size": [3, 4]}, (3, 6, 8)),
        ({"output_size": [3, 2]}, (2, 7, 5)),
        ({"output_size": 4}, (2, 5, 8)),
        ({"output_size": 1}, (2, 1, 1)),
    )


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """The maxima of windows that divide the volume, x `(N, C, D, H, W)` to `(N, C, O, P, Q)`; see `AdaptiveMaxPool2d`."""

    rank = 3
    examples = (
        ({"output_size": 2}, (2, 4, 5, 3)),
        ({"output_size": [3, 1, 2]}, (1, 4, 3, 3)),
        ({"output_size": 1}, (2, 1, 1, 1)),
    )


class _AdaptiveAvgPool(_AdaptivePool):
    """Base of adaptive average poolings; every pixel of a window of n gets `dy / n`."""

    _filling = 0.0
    replays = True

    def forward(self, x, *, training):
        return functional.adaptive_avg_pool(x, self._output()), x.shape

    def backward(self, dy, cache):
        return functional.adaptive_avg_pool_backward(dy, cache)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        if self._global(graph):
            return graph.op("GlobalAveragePool", *inputs)
        x, covered, win = self._side_by_side(graph, *inputs)
        y, size = mean_node(graph, x, covered, win), graph.shape(inputs[0])[1:]
        if covered == size:
            return y
        counts = functional.adaptive_counts(size, self._output())
        return graph.op("Mul", y, (features(win.kernel) / counts).astype(np.float32))


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """The averages of `output_size` windows of a signal, x `(N, C, L)` to `(N, C, P)`; windows as for `AdaptiveAvgPool2d`."""

    rank = 1
    examples = (({"output_size": 3}, (2, 7)), ({"output_size": [4]}, (3, 8)), ({"output_size": 1}, (5, 1)))


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """The averages of P x Q windows that divide the image among them, x `(N, C, H, W)` to `(N, C, P, Q)`.

    `y[p,q] = mean x[floor(p H/P) : ceil((p+1) H/P), floor(q W/Q) : ceil((q+1) W/Q)]`, as in PyTorch; every pixel of a window
    of n gets `dy / n`. `output_size`: an int or one per axis, at most the input's size. It takes images of any size to the
    one that a classifier wants (He et al. 2014).
    """

    rank = 2
    examples = (
        ({"output_size": [3, 4]}, (3, 6, 8)),
        ({"output_size": [3, 2]}, (2, 7, 5)),
        ({"output_size": 4}, (2, 5, 8)),
        ({"output_size": 1}, (2, 1, 1)),
    )


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """The averages of windows that divide the volume, x `(N, C, D, H, W)` to `(N, C, O, P, Q)`; see `AdaptiveAvgPool2d`."""

    rank = 3
    examples = (
        ({"output_size": 2}, (2, 4, 5, 3)),
        ({"output_size": [3, 1, 2]}, (1, 4, 3, 3)),
        ({"output_size": 1}, (2, 1, 1, 1)),
    )
