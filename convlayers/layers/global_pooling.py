"""Global pooling: one value a channel, for inputs of any size."""

from typing import ClassVar

import numpy as np

from .. import functional
from ..layer import Layer, OnnxGraph, Shape
from ._checks import sample_of_rank


class _GlobalPool(Layer):
    """Base of global poolings over `rank` axes: x `(N, C, *size)` to `(N, C, 1, ...)`."""

    rank: ClassVar[int]

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        channels, *size = sample_of_rank(input_shape, self.rank)
        return (channels, *(1 for _ in size))


class _GlobalMaxPool(_GlobalPool):
    """Base of global max poolings: `y = max_h x[h]`; `dx` is `dy` at the first maximum in row order. NaN wins."""

    replays = True

    def forward(self, x, *, training):
        y, index = functional.global_max_pool(x)
        return y, (index, x.shape)

    def backward(self, dy, cache):
        return functional.global_max_pool_backward(dy, *cache)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("GlobalMaxPool", *inputs)


class GlobalMaxPool1d(_GlobalMaxPool):
    """The maximum of each channel of a signal, x `(N, C, L)` to `(N, C, 1)`; the first one gets the gradient."""

    rank = 1
    examples = (({}, (3, 7)), ({}, (18, 1)))


class GlobalMaxPool2d(_GlobalMaxPool):
    """The maximum of each channel: `y = max_hw x[h,w]`; the first one in row order gets the gradient.

    x `(N, C, H, W)` to `(N, C, 1, 1)`, for images of any size.
    """

    rank = 2
    examples = (({}, (3, 6, 8)), ({}, (18, 1, 1)), ({}, (2, 7, 5)))


class GlobalMaxPool3d(_GlobalMaxPool):
    """The maximum of each channel of a volume, x `(N, C, D, H, W)` to `(N, C, 1, 1, 1)`; the first one gets the gradient."""

    rank = 3
    examples = (({}, (2, 3, 4, 5)), ({}, (5, 1, 1, 1)))


class _GlobalAvgPool(_GlobalPool):
    """Base of global average poolings: `y = (1/A) sum_h x[h]` over the A pixels of a channel; `dx = dy / A` for each."""

    replays = True

    def forward(self, x, *, training):
        return functional.global_avg_pool(x), x.shape

    def backward(self, dy, cache):
        return functional.global_avg_pool_backward(dy, cache)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("GlobalAveragePool", *inputs)


class GlobalAvgPool1d(_GlobalAvgPool):
    """The average of each channel of a signal, x `(N, C, L)` to `(N, C, 1)`; `dx = dy / L` for every value."""

    rank = 1
    examples = (({}, (3, 7)), ({}, (18, 1)))


class GlobalAvgPool2d(_GlobalAvgPool):
    """The average of each channel: `y = (1/(H W)) sum_hw x[h,w]`; `dx = dy / (H W)` for every pixel.

    x `(N, C, H, W)` to `(N, C, 1, 1)`, for images of any size. The head of ResNet (He et al. 2015), after Lin et al. 2013.
    """

    rank = 2
    examples = (({}, (3, 6, 8)), ({}, (18, 1, 1)), ({}, (2, 7, 5)))


class GlobalAvgPool3d(_GlobalAvgPool):
    """The average of each channel of a volume, x `(N, C, D, H, W)` to `(N, C, 1, 1, 1)`; `dx = dy / (D H W)`."""

    rank = 3
    examples = (({}, (2, 3, 4, 5)), ({}, (5, 1, 1, 1)))
