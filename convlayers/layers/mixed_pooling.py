"""Mixed max-average pooling."""

import numpy as np

from .. import functional, kernels
from ..kernels import memory
from ..layer import OnnxGraph, Shape
from ..shapes import IntOrSequence, Padding
from ._checks import number, switch
from ._pooling import _Pool, average_node, max_node


def _blend(highest: np.ndarray, average: np.ndarray, mix: float | np.ndarray, y: np.ndarray) -> None:
    np.multiply(highest, mix, out=y)
    y += (1 - mix) * average


def _part(dy: np.ndarray, mix: float | np.ndarray, parts: np.ndarray) -> None:
    """What the maximum gets of dy, and the average."""
    np.multiply(dy, mix, out=parts[0])
    np.multiply(dy, 1 - mix, out=parts[1])


def _add_slope(dy: np.ndarray, highest: np.ndarray, average: np.ndarray, mix: float | np.ndarray, total: np.ndarray) -> None:
    """The gradient of the parameter."""
    total += mix * (1 - mix) * (dy * (highest - average)).sum(dtype=np.float64)


class MixedPool2d(_Pool):
    """`y = m max + (1 - m) average` of each window, one proportion m a layer (Lee, Gallagher and Tu 2016, section 3.1).

    x `(N, C, H, W)` to `(N, C, P, Q)`. `mix` is m, between 0 (the average) and 1 (the maximum), or `"learned"`: then
    `m = 1 / (1 + e^-a)` with one parameter a, `mix_logit` `(1,)`, 0 at first. Unlike a clipped m, it has a gradient wherever
    an update may take it, and none takes m out of (0, 1). `dx = m dmax + (1 - m) daverage`,
    `da = m (1 - m) sum dy (max - average)`. The other arguments as for `AvgPool2d`.
    """

    rank = 2
    replays = True
    examples = (
        ({"kernel_size": 2}, (3, 6, 8)),
        ({"kernel_size": 3, "mix": "learned", "stride": 2, "padding": 1}, (2, 7, 5)),
        ({"kernel_size": [3, 2], "mix": 0.25, "stride": 2, "padding": 1, "ceil_mode": True}, (2, 6, 7)),
        ({"kernel_size": 2, "mix": 1, "count_include_pad": False, "padding": 1}, (2, 1, 1)),
        ({"kernel_size": 2, "mix": 0.0}, (2, 5, 4)),
    )

    def __init__(
        self,
        kernel_size: IntOrSequence,
        *,
        mix: float | str = 0.5,
        stride: IntOrSequence | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode)
        if mix != "learned":
            number(mix, "mix", 'between 0 and 1, or "learned"', lambda v: 0 <= v <= 1)  # type: ignore[arg-type]
        self.mix = mix
        self.count_include_pad = switch(count_include_pad, "count_include_pad")

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if self.mix == "learned":
            self.params["mix_logit"] = np.zeros(1, np.float32)
        return super().build(input_shape, rng)

    def _mix(self) -> float | np.ndarray:
        return functional.activation("sigmoid", self.params["mix_logit"]) if self.mix == "learned" else float(self.mix)

    def forward(self, x, *, training):
        win, mix = self._window(x.shape[2:]), self._mix()
        highest, index = functional.max_pool(x, win)
        average = functional.avg_pool(x, win, count_include_pad=self.count_include_pad)
        y = memory.empty(highest.shape, x.dtype)
        kernels.run(_blend, highest, average, mix, y)
        return y, (x.shape, win, mix, index, (highest, average) if self.params else ())

    def backward(self, dy, cache):
        shape, win, mix, index, both = cache
        if both:
            kernels.run(_add_slope, dy, *both, mix, self.grads["mix_logit"])
        parts = memory.empty((2, *dy.shape), dy.dtype)
        kernels.run(_part, dy, mix, parts)
        to_highest = functional.max_pool_backward(parts[0], index, shape, win)
        to_average = functional.avg_pool_backward(parts[1], shape, win, count_include_pad=self.count_include_pad)
        return functional.add([to_highest, to_average])

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        (x,), size = inputs, graph.shape(inputs[0])[1:]
        if self.mix == "learned":
            mix = graph.op("Sigmoid", self.params["mix_logit"])
            rest = graph.op("Sub", np.array(1, np.float32), mix)
        else:
            mix, rest = np.array(self.mix, np.float32), np.array(1 - float(self.mix), np.float32)
        highest = graph.op("Mul", max_node(graph, *self._laid_out(graph, x, size, -np.inf)), mix)
        average = graph.op("Mul", average_node(self, graph, x, self.count_include_pad), rest)
        return graph.op("Add", highest, average)
