"""Activations with exponentials, of samples of any shape: sigmoid, tanh and what came after them.

Values keep their digits where the formulas as written would lose them or overflow (`ext/activations.h` has the forms
that are computed). At infinity they are their limits: where PyTorch computes `-inf * 0`, NaN, SiLU, Mish and GELU give 0.
"""

import math

import numpy as np

from ..layer import OnnxGraph
from ._checks import choice, finite, number
from ._elementwise import _Elementwise


class Sigmoid(_Elementwise):
    """`y = 1 / (1 + e^-x)`; `dx = dy y (1 - y)`."""

    function = "sigmoid"
    keeps_output = True

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Sigmoid", *inputs)


class Tanh(_Elementwise):
    """`y = tanh x`; `dx = dy (1 - y^2)`."""

    function = "tanh"
    keeps_output = True

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Tanh", *inputs)


class ELU(_Elementwise):
    """`y = x` where x > 0, else `alpha (e^x - 1)`; `dx = dy` where x > 0, else `alpha e^x dy` (Clevert et al. 2016)."""

    function = "elu"
    examples = (({}, (3, 4, 5)), ({"alpha": -0.5}, (7,)), ({"alpha": 2.5}, (2, 1, 67)))

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = finite(alpha, "alpha")

    def constants(self) -> tuple[float, ...]:
        return self.alpha, 1.0

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Elu", *inputs, alpha=float(self.alpha))


class SELU(_Elementwise):
    """`y = scale x` where x > 0, else `scale alpha (e^x - 1)`; `dx = scale dy` where x > 0, else `scale alpha e^x dy`.

    alpha = 1.6733 and scale = 1.0507 keep mean 0 and variance 1 from layer to layer (Klambauer et al. 2017).
    """

    function = "elu"

    def constants(self) -> tuple[float, ...]:
        return 1.6732632423543772848170429916717, 1.0507009873554804934193349852946

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        alpha, gamma = self.constants()
        return graph.op("Selu", *inputs, alpha=alpha, gamma=gamma)


class Softplus(_Elementwise):
    """`y = log(1 + e^(beta x)) / beta`, and x where `beta x > threshold` (Dugas et al. 2001; threshold as in PyTorch).

    `dx = dy sigmoid(beta x)`, and dy where `beta x > threshold`.
    """

    function = "softplus"
    examples = (({}, (3, 4, 5)), ({"beta": 2.5}, (7,)), ({"beta": 0.5, "threshold": 0.25}, (2, 1, 67)))

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta = number(beta, "beta", "greater than 0 and finite", lambda v: 0 < v < math.inf)
        self.threshold = finite(threshold, "threshold")

    def constants(self) -> tuple[float, ...]:
        return self.beta, self.threshold

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        (x,) = inputs
        z = x if self.beta == 1 else graph.op("Mul", x, np.array(float(self.beta)))
        y = graph.op("Softplus", z)
        if self.beta != 1:
            y = graph.op("Div", y, np.array(float(self.beta)))
        # From a threshold of 20 on, both sides of it are equal in float32.
        return y if self.threshold >= 20 else graph.op("Where", graph.op("Greater", z, np.array(float(self.threshold))), x, y)


class SiLU(_Elementwise):
    """`y = x s` with `s = sigmoid(x)`; `dx = dy s (1 + x (1 - s))` (Elfwing, Uchibe and Doya 2018; also called swish)."""

    function = "silu"

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Mul", *inputs, graph.op("Sigmoid", *inputs))


class Mish(_Elementwise):
    """`y = x t` with `t = tanh(log(1 + e^x))`; `dx = dy (t + x (1 - t^2) sigmoid(x))` (Misra 2019)."""

    function = "mish"

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        if graph.opset >= 18:
            return graph.op("Mish", *inputs)
        return graph.op("Mul", *inputs, graph.op("Tanh", graph.op("Softplus", *inputs)))


class GELU(_Elementwise):
    """`y = x P(x)`, P the standard normal distribution, `(1 + erf(x / sqrt(2))) / 2` (Hendrycks and Gimpel 2016).

    `dx = dy (P(x) + x p(x))` with the density `p(x) = e^(-x^2 / 2) / sqrt(2 pi)`.
    `approximate="tanh"` takes `P(x) = (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`, and its derivative.
    """

    examples = (({}, (3, 4, 5)), ({"approximate": "tanh"}, (7,)), ({}, (2, 1, 67)))

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = choice(approximate, "approximate", ("none", "tanh"))

    @property
    def function(self) -> str:  # type: ignore[override]
        return "gelu" if self.approximate == "none" else "gelu_tanh"

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        (x,) = inputs
        if graph.opset >= 20:
            return graph.op("Gelu", x, approximate=self.approximate)
        if self.approximate == "none":
            bent = graph.op("Erf", graph.op("Mul", x, np.array(math.sqrt(0.5))))
        else:
            cubic = graph.op("Mul", graph.op("Mul", x, x), np.array(0.044715))
            straight = graph.op("Mul", x, np.array(math.sqrt(2 / math.pi)))
            bent = graph.op("Tanh", graph.op("Mul", straight, graph.op("Add", cubic, np.array(1.0))))
        return graph.op("Mul", graph.op("Mul", x, np.array(0.5)), graph.op("Add", bent, np.array(1.0)))
