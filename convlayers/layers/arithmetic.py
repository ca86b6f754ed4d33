"""Joins that compute value by value: sums, products, quotients, powers, extremes.

Samples broadcast from their last axis on, as in NumPy: an axis of size 1 is repeated to meet the others, and a sample of fewer
axes gets axes of size 1 in front, `(5,)` as `(1, 1, 5)` beside `(3, 4, 5)`. A gradient is summed over the axes along which its
input was repeated.
"""

from functools import reduce
from typing import ClassVar

import numpy as np

from .. import functional
from ..layer import Layer, OnnxGraph, Shape
from ..shapes import broadcast
from ._checks import several
from ._relu import before_relu


class _Arithmetic(Layer):
    """Base of these joins: `operation` is the name that `functional.arithmetic` knows, `operator` is ONNX's.

    `count`: how many inputs there must be, None for two or more.
    """

    joins = True
    operation: ClassVar[str]
    operator: ClassVar[str]
    count: ClassVar[int | None] = None
    replays = True

    def build(self, input_shape: list[Shape], rng: np.random.Generator) -> Shape:
        return broadcast(several(input_shape, self.count))

    def forward(self, x, *, training):
        return functional.arithmetic(self.operation, x), x

    def backward(self, dy, cache):
        return functional.arithmetic_backward(self.operation, dy, cache)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return reduce(lambda a, b: graph.op(self.operator, a, b), of_one_rank(graph, inputs))


def of_one_rank(graph: OnnxGraph, inputs: tuple[str, ...]) -> list[str]:
    """The inputs with axes of size 1 behind the batch where one has fewer than another: ONNX aligns the batch axes too."""
    ranks = [len(graph.shape(name)) for name in inputs]
    missing = [np.arange(1, 1 + max(ranks) - rank, dtype=np.int64) for rank in ranks]
    return [graph.op("Unsqueeze", name, axes) if len(axes) else name for name, axes in zip(inputs, missing, strict=True)]


class Add(_Arithmetic):
    """The sum of two or more inputs, `y = x_1 + x_2 + ... + x_k`; each gets the gradient as it is."""

    operation, operator = "add", "Add"
    fuses_relu = True
    replays = True
    examples = (
        ({}, [(3, 4, 5), (3, 4, 5)]),
        ({}, [(7,), (7,), (7,)]),
        ({}, [(3, 1, 1), (3, 4, 5)]),
        ({}, [(5,), (2, 1, 1), (4, 1)]),
    )

    def forward(self, x, *, training, relu=False):
        if len({array.shape for array in x}) == 1:
            y = functional.add(x, relu=relu)
            return y, (len(x), y if relu else None)
        y, cache = super().forward(x, training=training)
        y = functional.relu(y) if relu else y
        return y, (cache, y if relu else None)

    def backward(self, dy, cache):
        dy, inputs = before_relu(dy, cache)
        return [dy] * inputs if isinstance(inputs, int) else super().backward(dy, inputs)


class Subtract(_Arithmetic):
    """The difference of two inputs, `y = a - b`; `da = dy`, `db = -dy`."""

    operation, operator, count = "subtract", "Sub", 2
    examples = (({}, [(3, 4, 5), (3, 4, 5)]), ({}, [(7,), (1,)]), ({}, [(3, 1), (2, 1, 4)]))


class Multiply(_Arithmetic):
    """The product of two or more inputs, `y = x_1 x_2 ... x_k`; `dx_i = dy prod_(j != i) x_j`.

    With gates `(C, 1, 1)` for images `(C, H, W)` it is the scaling of squeeze-and-excitation (Hu, Shen and Sun 2018).
    """

    operation, operator = "multiply", "Mul"
    examples = (
        ({}, [(3, 4, 5), (3, 4, 5)]),
        ({}, [(3, 4, 5), (3, 1, 1)]),
        ({}, [(1, 4, 1), (3, 1, 5), (1, 1, 1)]),
        ({}, [(7,), (1,)]),
        ({}, [(3, 1), (2, 3, 4), (4,)]),
    )


class Divide(_Arithmetic):
    """The quotient of two inputs, `y = a / b`; `da = dy / b`, `db = -dy y / b`. A divisor of 0 gives infinity or NaN."""

    operation, operator, count = "divide", "Div", 2
    examples = (({}, [(2, 3, 2), (2, 3, 2)]), ({}, [(3, 4, 5), (3, 1, 1)]), ({}, [(3,), (2, 2, 1)]))


class Power(_Arithmetic):
    """`y = a^b` of two inputs; `da = dy b a^(b-1)`, `db = dy y log a`. A negative base with a broken exponent gives NaN.

    As in PyTorch, `da = 0` where `b = 0` and `db = 0` where `y = 0`, whatever the other factors are.
    """

    operation, operator, count = "power", "Pow", 2
    nonnegative = True
    examples = (({}, [(2, 3, 2), (2, 3, 2)]), ({}, [(3, 4, 5), (3, 1, 1)]), ({}, [(3,), (2, 2, 1)]))


class Maximum(_Arithmetic):
    """The largest of two or more inputs, value by value; it gets the gradient, the first of equal ones all of it. NaN wins."""

    operation, operator = "maximum", "Max"
    examples = (({}, [(3, 4, 5), (5,)]), ({}, [(4, 2, 1), (2, 3), (1,)]))


class Minimum(_Arithmetic):
    """The smallest of two or more inputs, value by value; it gets the gradient, the first of equal ones all of it. NaN wins."""

    operation, operator = "minimum", "Min"
    examples = (({}, [(3, 4, 5), (5,)]), ({}, [(4, 2, 1), (2, 3), (1,)]))
