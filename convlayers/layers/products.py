"""Joins that multiply and add up: products of matrices, and sums of products by Einstein's convention."""

import math
import re

import numpy as np

from .. import functional
from ..errors import ArrayTypeError, ConfigError, ShapeError
from ..layer import Layer, OnnxGraph, Shape
from ..shapes import broadcast
from ._checks import several
from .arithmetic import of_one_rank


class MatMul(Layer):
    """The product of two inputs' matrices, `y = a @ b`: a `(N, ..., I, K)` and b `(N, ..., K, J)` to `(N, ..., I, J)`.

    Samples have two axes or more; the ones before the last two broadcast as in `Add`. `da = dy @ b^T`, `db = a^T @ dy`, summed
    over the axes along which an input was repeated.
    """

    joins = True
    replays = True
    examples = (
        ({}, [(3, 4), (4, 5)]),
        ({}, [(2, 3, 4), (2, 4, 5)]),
        ({}, [(2, 1, 3, 4), (3, 4, 2)]),
        ({}, [(17, 33), (2, 33, 19)]),
    )

    def build(self, input_shape: list[Shape], rng: np.random.Generator) -> Shape:
        a, b = several(input_shape, 2)
        if min(len(a), len(b)) < 2 or a[-1] != b[-2]:
            raise ShapeError(f"takes matrices (..., I, K) and (..., K, J); got samples of shape {a} and {b}")
        return (*broadcast([a[:-2], b[:-2]]), a[-2], b[-1])

    def forward(self, x, *, training):
        return functional.matmul(*x), x

    def backward(self, dy, cache):
        return functional.matmul_backward(dy, *cache)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("MatMul", *of_one_rank(graph, inputs))

    def multiply_adds(self, input_shape: list[Shape], output_shape: Shape) -> int:
        return math.prod(output_shape) * input_shape[0][-1]


def _parsed(equation: str) -> tuple[list[str], str]:
    """The terms and the result of an equation whose batch is one letter."""
    if not isinstance(equation, str):
        raise ArrayTypeError(f"equation is a text such as 'nij,njk->nik'; got {equation!r}")
    parts = re.fullmatch(r"([A-Za-z]+(?:,[A-Za-z]+)*)->([A-Za-z]+)", equation.replace(" ", ""))
    if not parts:
        raise ConfigError(f"equation is terms of letters, ->, and the result's letters, as in 'nij,njk->nik'; got {equation!r}")
    terms, result = parts[1].split(","), parts[2]
    batch = result[0]
    if any(term[0] != batch or batch in term[1:] for term in [*terms, result]):
        raise ConfigError(f"the batch is one letter, the first of every term and of the result; got {equation!r}")
    if len(set(result)) < len(result) or not set(result) <= set("".join(terms)):
        raise ConfigError(f"the result has letters of the terms, each once; got {equation!r}")
    if any(len(term) < 2 for term in [*terms, result]):
        raise ConfigError(f"every term and the result have a letter beside the batch; got {equation!r}")
    return terms, result


class Einsum(Layer):
    """The sum of products by Einstein's convention, as ONNX `Einsum`: `"nij,njk->nik"` is `y_nik = sum_j a_nij b_njk`.

    One term of letters for each input, one letter an axis; the letter of the batch is the first of every term and of the result
    and stands nowhere else. Letters that the result has not are summed; one that stands twice in a term takes its diagonal. The
    result is written out, and has an axis beside the batch. The gradient of a term is the same with dy in its place:
    `da_nij = sum_k dy_nik b_njk`.
    """

    joins = True
    replays = True
    examples = (
        ({"equation": "nij,njk->nik"}, [(3, 4), (4, 5)]),
        ({"equation": "nhid, nhjd -> nhij"}, [(2, 3, 4), (2, 5, 4)]),
        ({"equation": "bii,bijk->bi"}, [(3, 3), (3, 2, 4)]),
        ({"equation": "nab,nbc,ncd->nda"}, [(2, 3), (3, 4), (4, 2)]),
        ({"equation": "ni,nj->nij"}, [(3,), (4,)]),
    )

    def __init__(self, equation: str) -> None:
        self.equation = equation
        _parsed(equation)

    def _sizes(self, shapes: list[Shape]) -> dict[str, int]:
        """The size of each letter but the batch's."""
        terms, _ = _parsed(self.equation)
        sizes: dict[str, int] = {}
        for term, shape in zip(terms, several(shapes, len(terms)), strict=True):
            if len(term) != len(shape) + 1:
                raise ShapeError(f"{term} takes samples of {len(term) - 1} axes; got one of shape {shape}")
            for letter, size in zip(term[1:], shape, strict=True):
                if sizes.setdefault(letter, size) != size:
                    raise ShapeError(f"the letter {letter} has one size; got {sizes[letter]} and {size}")
        return sizes

    def build(self, input_shape: list[Shape], rng: np.random.Generator) -> Shape:
        sizes, (_, result) = self._sizes(input_shape), _parsed(self.equation)
        return tuple(sizes[letter] for letter in result[1:])

    def forward(self, x, *, training):
        return functional.einsum(*_parsed(self.equation), x), x

    def backward(self, dy, cache):
        return functional.einsum_backward(dy, *_parsed(self.equation), cache)

    def to_onnx(self, graph: OnnxGraph, *inputs: str) -> str:
        return graph.op("Einsum", *inputs, equation=self.equation)

    def multiply_adds(self, input_shape: list[Shape], output_shape: Shape) -> int:
        return math.prod(self._sizes(input_shape).values())
