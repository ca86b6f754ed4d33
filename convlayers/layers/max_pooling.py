"""Max pooling, and min pooling beside it."""

import math
from collections.abc import Callable
from typing import ClassVar

from .. import functional
from ..functional.pool.plane import bound_max_pool2d, bound_max_pool2d_backward
from ..layer import Bound, OnnxGraph, Shape
from ..shapes import window
from ._pooling import _DilatedPool, max_node


class _MaxPool(_DilatedPool):
    """Base of max poolings: `y[p] = max_r x[p s + r d - pad]`, with p and r over `rank` axes.

    `dx` is `dy` at the maximum's place; of equal values the first in row order gets it. Padding counts as minus infinity,
    NaN wins.
    """

    _pool: ClassVar[Callable] = staticmethod(functional.max_pool)
    fuses_relu = True
    # Where the ReLU bends, at a maximum (or minimum) of 0 or less, it stops the gradient on either side.
    commutes_with_relu = True
    replays = True

    def forward(self, x, *, training, relu=False):
        win = self._window(x.shape[2:])
        y, index = self._pool(x, win, with_index=training, relu=relu)
        return y, (x if index is None else x.shape, index, win, relu)

    def backward(self, dy, cache):
        x, index, win, relu = cache
        if index is None:
            # Inference leaves the index out; whoever wants a gradient of it pays for it here.
            (_, index), x = self._pool(x, win, relu=relu), x.shape
        return functional.max_pool_backward(dy, index, x, win)

    def bind(self, shape, dtype, *, training, relu=False):
        if self.rank != 2 or self._pool is not functional.max_pool:
            return None
        win = self._window(shape[2:])
        pool, back = bound_max_pool2d(shape, dtype, win, training, relu), bound_max_pool2d_backward(shape, dtype, win)

        def forward(x):
            y, index = pool(x)
            return y, (x, None, win, relu) if index is None else (shape, (index,), win, relu)

        def backward(dy, cache):
            return back(dy, cache[1][0])

        return Bound(forward, backward, backward) if training else Bound(forward, self.backward, self.accumulate)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return max_node(graph, *self._laid_out(graph, inputs[0], graph.shape(inputs[0])[1:], -math.inf))


class MaxPool1d(_MaxPool):
    """The maximum of each window of a signal, x `(N, C, L)` to `(N, C, P)`: `y[p] = max_r x[p s + r d - pad]`.

    Arguments and gradient as for `MaxPool2d`.
    """

    rank = 1
    examples = (
        ({"kernel_size": 2}, (3, 8)),
        ({"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2}, (2, 9)),
        ({"kernel_size": [4], "stride": 3, "padding": [[0, 1]], "ceil_mode": True}, (2, 11)),
        ({"kernel_size": 1}, (5, 1)),
    )


class MaxPool2d(_MaxPool):
    """The maximum of each window: `y[p,q] = max_rs x[p s + r d - pad, q s + s' d - pad]`.

    x `(N, C, H, W)` to `(N, C, P, Q)`. Padding counts as minus infinity; the first maximum in row order gets the
    gradient. `kernel_size`, `stride`, `dilation`: an int or one per axis; `stride=None` means the kernel's size. `padding`:
    an int, one per axis, a `(before, after)` pair per axis, `"same"` or `"valid"`. `ceil_mode` lets a last window hang over
    the edge, as in PyTorch.
    """

    rank = 2
    examples = (
        ({"kernel_size": 2}, (3, 6, 8)),
        ({"kernel_size": 3, "stride": 2, "padding": 1}, (2, 7, 8)),
        ({"kernel_size": [2, 3], "stride": [1, 2], "dilation": 2, "padding": [[0, 1], [1, 1]]}, (2, 7, 9)),
        ({"kernel_size": 3, "stride": 2, "ceil_mode": True}, (2, 8, 6)),
        ({"kernel_size": 3, "stride": 2, "padding": "same"}, (2, 5, 6)),
    )

    def halves(self, size: Shape) -> bool:
        """Whether an image of this size becomes the maximum of each 2 x 2, without a last row or column that is odd."""
        return min(size) >= 2 and self._window(size) == window(size, 2, stride=2)


class MaxPool3d(_MaxPool):
    """The maximum of each window of a volume, x `(N, C, D, H, W)` to `(N, C, O, P, Q)`.

    `y[o,p,q] = max_trs x[o s + t d - pad, p s + r d - pad, q s + s' d - pad]`. Arguments and gradient as for `MaxPool2d`.
    """

    rank = 3
    examples = (
        ({"kernel_size": 2}, (2, 4, 5, 6)),
        ({"kernel_size": 3, "stride": 2, "padding": 1}, (2, 5, 4, 3)),
        (
            {"kernel_size": [2, 1, 3], "stride": [1, 2, 1], "dilation": [2, 1, 1], "padding": [[0, 1], [0, 0], [1, 0]]},
            (1, 4, 5, 4),
        ),
        ({"kernel_size": 2, "ceil_mode": True}, (1, 3, 5, 3)),
        ({"kernel_size": 3, "padding": 1}, (2, 1, 1, 1)),
    )


class MinPool2d(_MaxPool):
    """The minimum of each window, which is the maximum of the negated input: `y = -max(-x)`.

    x `(N, C, H, W)` to `(N, C, P, Q)`. Padding counts as infinity; the first minimum in row order gets the gradient.
    Arguments as for `MaxPool2d`.
    """

    rank = 2
    _pool = staticmethod(functional.min_pool)
    examples = (
        ({"kernel_size": 2}, (3, 6, 7)),
        ({"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, (2, 8, 5)),
        ({"kernel_size": [2, 3], "stride": 1, "dilation": [2, 1], "padding": "same"}, (2, 5, 6)),
    )

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        turned, size = graph.op("Neg", *inputs), graph.shape(inputs[0])[1:]
        return graph.op("Neg", max_node(graph, *self._laid_out(graph, turned, size, -math.inf)))
