"""Elementary functions of each value, of samples of any shape; outside of a function's domain y is NaN or infinite."""

import math
from typing import ClassVar

import numpy as np

from ..layer import OnnxGraph
from ._checks import finite, number
from ._elementwise import _Elementwise


class _Function(_Elementwise):
    """Base of functions for which ONNX has an operator of its own."""

    operator: ClassVar[str]

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op(self.operator, *inputs)


class Exp(_Function):
    """`y = e^x`; `dx = dy y`."""

    function, operator = "exp", "Exp"
    keeps_output = True


class Log(_Function):
    """`y = log x`, the natural logarithm; `dx = dy / x`. Minus infinity at 0, NaN below."""

    function, operator = "log", "Log"
    nonnegative = True
    examples = (({}, (3, 4, 5)), ({}, (7,)))


class Sqrt(_Function):
    """`y = sqrt x`; `dx = dy / (2 y)`. NaN below 0, and an infinite slope at 0."""

    function, operator = "sqrt", "Sqrt"
    keeps_output = True
    nonnegative = True
    examples = (({}, (3, 4, 5)), ({}, (7,)))


class Erf(_Function):
    """`y = erf x`, `2 / sqrt(pi)` times the integral of `e^(-t^2)` from 0 to x; `dx = dy 2 / sqrt(pi) e^(-x^2)`."""

    function, operator = "erf", "Erf"


class Abs(_Function):
    """`y = |x|`; `dx = dy sign(x)`, 0 at 0."""

    function, operator = "abs", "Abs"


class Negative(_Function):
    """`y = -x`; `dx = -dy`."""

    function, operator = "negative", "Neg"


class Reciprocal(_Function):
    """`y = 1 / x`; `dx = -dy y^2`. Infinite at 0."""

    function, operator = "reciprocal", "Reciprocal"
    keeps_output = True
    examples = (({}, (2, 1, 5)), ({}, (7,)))


class _WithConstant(_Elementwise):
    """Base of functions of x and of one constant, which ONNX's `operator` takes as its second input."""

    operator: ClassVar[str]
    constant: ClassVar[str]

    def constants(self) -> tuple[float, ...]:
        return (float(getattr(self, self.constant)),)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op(self.operator, *inputs, np.array(self.constants()[0], np.float32))


class AddConstant(_WithConstant):
    """`y = x + value`; `dx = dy`. `value` is a finite number."""

    function, operator, constant = "add_constant", "Add", "value"
    examples = (({"value": -1.5}, (3, 4, 5)), ({"value": 2}, (7,)))

    def __init__(self, value: float) -> None:
        self.value = finite(value, "value")


class MultiplyConstant(_WithConstant):
    """`y = value x`; `dx = value dy`. `value` is a finite number."""

    function, operator, constant = "multiply_constant", "Mul", "value"
    examples = (({"value": -1.5}, (3, 4, 5)), ({"value": 0}, (7,)))

    def __init__(self, value: float) -> None:
        self.value = finite(value, "value")


class PowConstant(_WithConstant):
    """`y = x^exponent`; `dx = dy exponent x^(exponent-1)`. `exponent` is a finite number.

    With one that is no whole number, a negative x gives NaN; with one below 1, the slope at 0 is infinite, or 0 for exponent 0.
    """

    function, operator, constant = "power_constant", "Pow", "exponent"
    nonnegative = True
    examples = (
        ({"exponent": 2}, (3, 4, 5)),
        ({"exponent": 0.5}, (7,)),
        ({"exponent": -1.25}, (2, 1, 5)),
        ({"exponent": 0}, (3, 2)),
    )

    def __init__(self, exponent: float) -> None:
        self.exponent = finite(exponent, "exponent")


class Softsign(_Function):
    """`y = x / (1 + |x|)`; `dx = dy / (1 + |x|)^2` (Turian, Bergstra and Bengio 2009)."""

    function, operator = "softsign", "Softsign"


class _WithAlpha(_Elementwise):
    """Base of functions of x and of `alpha`, which is an attribute of ONNX's `operator`."""

    operator: ClassVar[str]
    alpha: float

    def constants(self) -> tuple[float, ...]:
        return (float(self.alpha),)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op(self.operator, *inputs, alpha=float(self.alpha))


class CELU(_WithAlpha):
    """`y = x` where x > 0, else `alpha (e^(x/alpha) - 1)`; `dx = dy` where x > 0, else `dy e^(x/alpha)` (Barron 2017).

    `alpha` is a finite number other than 0.
    """

    function, operator = "celu", "Celu"
    examples = (({}, (3, 4, 5)), ({"alpha": 0.5}, (7,)), ({"alpha": -2}, (2, 1, 67)))

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = number(alpha, "alpha", "a finite number other than 0", lambda v: v != 0 and math.isfinite(v))


class ThresholdedReLU(_WithAlpha):
    """`y = x` where x > alpha, else 0; `dx = dy` where x > alpha, else 0 (Konda, Memisevic and Krueger 2015)."""

    function, operator = "thresholded_relu", "ThresholdedRelu"
    examples = (({}, (3, 4, 5)), ({"alpha": -0.5}, (7,)), ({"alpha": 0}, (2, 1, 67)))

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = finite(alpha, "alpha")
