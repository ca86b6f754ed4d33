"""Average pooling."""

from .. import functional
from ..layer import OnnxGraph
from ..shapes import IntOrSequence, Padding
from ._checks import switch
from ._pooling import _DilatedPool, average_node


class _AvgPool(_DilatedPool):
    """Base of average poolings: `y[p] = (1/n_p) sum_r x[p s + r d - pad]`, with p and r over `rank` axes.

    `dx` gets `dy / n_p` at every pixel of the window. `n_p` counts the window's pixels: padding too under
    `count_include_pad` (PyTorch's default), but never what `ceil_mode` reaches beyond it.
    """

    replays = True

    def __init__(
        self,
        kernel_size: IntOrSequence,
        *,
        stride: IntOrSequence | None = None,
        padding: Padding = 0,
        dilation: IntOrSequence = 1,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)
        self.count_include_pad = switch(count_include_pad, "count_include_pad")

    def forward(self, x, *, training):
        win = self._window(x.shape[2:])
        return functional.avg_pool(x, win, count_include_pad=self.count_include_pad), (x.shape, win)

    def backward(self, dy, cache):
        return functional.avg_pool_backward(dy, *cache, count_include_pad=self.count_include_pad)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return average_node(self, graph, inputs[0], self.count_include_pad)


class AvgPool1d(_AvgPool):
    """The average of each window of a signal, x `(N, C, L)` to `(N, C, P)`: `y[p] = (1/n_p) sum_r x[p s + r d - pad]`.

    Arguments and gradient as for `AvgPool2d`.
    """

    rank = 1
    examples = (
        ({"kernel_size": 2}, (3, 8)),
        ({"kernel_size": 3, "stride": 2, "padding": 1}, (2, 9)),
        ({"kernel_size": [4], "stride": 3, "padding": [[0, 1]], "ceil_mode": True}, (2, 11)),
        ({"kernel_size": 3, "padding": 1, "count_include_pad": False}, (5, 1)),
        ({"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "count_include_pad": False}, (2, 9)),
    )


class AvgPool2d(_AvgPool):
    """The average of each window: `y[p,q] = (1/n_pq) sum_rs x[p s + r d - pad, q s + s' d - pad]`.

    x `(N, C, H, W)` to `(N, C, P, Q)`; `dx` gets `dy / n_pq` at every pixel of the window. `n_pq` counts the window's
    pixels: padding too under `count_include_pad` (PyTorch's default), but never what `ceil_mode` reaches beyond it. The
    other arguments as for `MaxPool2d`.
    """

    rank = 2
    examples = (
        ({"kernel_size": 2}, (3, 6, 8)),
        ({"kernel_size": 3, "stride": 2, "padding": 1}, (2, 7, 8)),
        ({"kernel_size": [2, 3], "stride": [1, 2], "padding": [[0, 1], [1, 2]], "count_include_pad": False}, (2, 7, 9)),
        ({"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}, (2, 8, 6)),
        ({"kernel_size": 3, "stride": 2, "ceil_mode": True, "count_include_pad": False}, (2, 8, 6)),
        ({"kernel_size": [3, 2], "stride": 2, "padding": 1, "dilation": [2, 3], "ceil_mode": True}, (2, 8, 7)),
    )


class AvgPool3d(_AvgPool):
    """The average of each window of a volume, x `(N, C, D, H, W)` to `(N, C, O, P, Q)`.

    `y[o,p,q] = (1/n_opq) sum_trs x[o s + t d - pad, p s + r d - pad, q s + s' d - pad]`. Arguments and gradient as for
    `AvgPool2d`.
    """

    rank = 3
    examples = (
        ({"kernel_size": 2}, (2, 4, 5, 6)),
        ({"kernel_size": 3, "stride": 2, "padding": 1}, (2, 5, 4, 3)),
        (
            {"kernel_size": [2, 1, 3], "stride": [1, 2, 1], "padding": [[0, 1], [0, 0], [1, 0]], "count_include_pad": False},
            (1, 4, 5, 4),
        ),
        ({"kernel_size": [3, 2, 2], "stride": 2, "padding": [1, 0, 1], "ceil_mode": True}, (1, 4, 3, 5)),
        ({"kernel_size": 3, "padding": 1}, (2, 1, 1, 1)),
        ({"kernel_size": 2, "stride": 1, "dilation": [1, 2, 3]}, (2, 3, 4, 5)),
    )
