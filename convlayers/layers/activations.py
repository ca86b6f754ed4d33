"""Activations made of straight lines, of samples of any shape, and their relatives."""

import math

import numpy as np

from .. import functional
from ..errors import ConfigError, ShapeError
from ..functional.pointwise import add_gradient
from ..layer import Layer, OnnxGraph, Shape
from ._checks import finite, switch
from ._elementwise import _Elementwise


class ReLU(Layer):
    """`y = max(x, 0)`; `dx = dy` where y > 0, else 0."""

    replays = True
    examples = (({}, (3, 4, 5)), ({}, (7,)))

    def forward(self, x, *, training):
        y = functional.relu(x)
        return y, y

    def backward(self, dy, cache):
        return functional.relu_backward(dy, cache)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Relu", *inputs)


class LeakyReLU(_Elementwise):
    """`y = x` where x > 0, else `alpha x`; `dx = dy` where x > 0, else `alpha dy` (Maas, Hannun and Ng 2013)."""

    function = "leaky_relu"
    examples = (({}, (3, 4, 5)), ({"alpha": -0.5}, (7,)), ({"alpha": 0}, (2, 1, 67)))

    def __init__(self, alpha: float = 0.01) -> None:
        self.alpha = finite(alpha, "alpha")

    def constants(self) -> tuple[float, ...]:
        return (self.alpha,)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("LeakyRelu", *inputs, alpha=float(self.alpha))


class PReLU(Layer):
    """`y = x` where x > 0, else `weight x`, with a trained weight (He et al. 2015).

    x `(N, C, ...)`; `weight` is one value, `(1,)`, or one a channel, `(C,)`, and starts at `init`.
    `dx = dy` where x > 0, else `weight dy`; `dweight = sum dy x` over the x of its channel that are not over 0.
    """

    replays = True
    examples = (
        ({}, (3, 4, 5)),
        ({"per_channel": True, "init": -0.5}, (3, 4, 5)),
        ({"per_channel": True}, (7,)),
        ({"per_channel": True}, (2, 1, 67)),
    )

    def __init__(self, *, per_channel: bool = False, init: float = 0.25) -> None:
        self.per_channel = switch(per_channel, "per_channel")
        self.init = finite(init, "init")

    def build(self, input_shape: Shape, rng: np.random.Generator) -> Shape:
        if not input_shape:
            raise ShapeError("takes samples with a channel axis (C, ...); got a sample of shape ()")
        self.params["weight"] = np.full(input_shape[0] if self.per_channel else 1, self.init, np.float32)
        return input_shape

    def forward(self, x, *, training):
        return functional.prelu(x, self.params["weight"]), x

    def backward(self, dy, cache):
        dx, dw = functional.prelu_backward(dy, cache, self.params["weight"])
        add_gradient(self.grads["weight"], dw)
        return dx

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        weight, axes = self.params["weight"], np.arange(1, len(graph.shape(inputs[0])), dtype=np.int64)
        return graph.op("PRelu", *inputs, graph.op("Unsqueeze", weight, axes) if self.per_channel and len(axes) else weight)


class Clip(_Elementwise):
    """`y = min(max(x, min), max)`; None leaves a side open. ReLU6 is `Clip(0, 6)` (Howard et al. 2017).

    `dx = dy` where min < x < max, else 0: at a bound as in PyTorch's Hardtanh and ReLU6.
    """

    function = "clip"
    examples = (({"min": 0, "max": 6}, (3, 4, 5)), ({"min": -0.5}, (7,)), ({"max": 0.5}, (2, 1, 67)))

    def __init__(self, min: float | None = None, max: float | None = None) -> None:
        self.min = None if min is None else finite(min, "min")
        self.max = None if max is None else finite(max, "max")
        low, high = self.constants()
        if not low < high:
            raise ConfigError(f"min must be less than max; got {min!r} and {max!r}")

    def constants(self) -> tuple[float, ...]:
        return -math.inf if self.min is None else self.min, math.inf if self.max is None else self.max

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        bounds = (None if bound is None else np.array(bound, np.float32) for bound in (self.min, self.max))
        return graph.op("Clip", *inputs, *bounds)


class HardSigmoid(_Elementwise):
    """`y = min(max((x + 3) / 6, 0), 1)`; `dx = dy / 6` where -3 < x < 3, else 0 (Courbariaux et al. 2015, PyTorch's slope)."""

    function = "hard_sigmoid"

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("HardSigmoid", *inputs, alpha=1 / 6, beta=0.5)


class HardSwish(_Elementwise):
    """`y = x min(max((x + 3) / 6, 0), 1)` (Howard et al. 2019).

    `dx = 0` where x <= -3, `dy (x / 3 + 1/2)` where -3 < x < 3, else `dy`.
    """

    function = "hard_swish"

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        if graph.opset >= 14:
            return graph.op("HardSwish", *inputs)
        return graph.op("Mul", *inputs, graph.op("HardSigmoid", *inputs, alpha=1 / 6, beta=0.5))
