"""Matrix products."""

import string

import numpy as np

from ....layers.arithmetic import Add
from ....layers.dense import Dense
from ....layers.elementary import MultiplyConstant
from ....layers.products import Einsum, MatMul
from ....layers.reshape import Permute, Reshape
from ..handlers import handler
from ..op import Op
from ..values import Constant, Tensor


def _vector(op: Op, array: np.ndarray, size: int) -> np.ndarray:
    """A bias for each output, however it is broadcast; None does not fit one."""
    if array.ndim > 1 and any(n != 1 for n in array.shape[:-1]):
        op.refuse(f"its bias of shape {array.shape} differs from sample to sample")
    try:
        return np.broadcast_to(array.reshape(array.shape[-1:]), (size,))
    except ValueError:
        op.refuse(f"its bias of shape {array.shape} does not fit {size} outputs")


@handler("Gemm")
def gemm(op: Op) -> Tensor:
    x, weight, bias = op.tensor(0), op.value(1), op.value(2)
    if not op.batch or isinstance(weight, Tensor) or isinstance(bias, Tensor):
        return _product(op, x)
    if x.rank != 2 or op.get_int("transA", 0):
        op.refuse("it needs a batch of vectors (N, K), not transposed")
    return _dense(op, x)


def _dense(op: Op, x: Tensor) -> Tensor:
    """A batch of vectors and a constant weight: `Dense`, with alpha and beta in its parameters."""
    alpha, beta = np.float32(op.get_float("alpha", 1.0)), np.float32(op.get_float("beta", 1.0))
    weight = op.weight(1, "weight", 2)
    weight = weight if op.get_int("transB", 0) else weight.T
    features, channels = weight.shape
    if channels != x.sample[0]:
        op.refuse(f"its weight takes {channels} features; got {x.sample[0]}")
    bias = op.optional_weight(2, "bias")
    vector = None if bias is None else _vector(op, bias, features)
    return op.layer(
        Dense(features, bias=bias is not None),
        x,
        weight=weight if alpha == 1 else weight * alpha,
        bias=vector if vector is None or beta == 1 else vector * beta,
    )


def _product(op: Op, x: Tensor) -> Tensor:
    """`alpha A' B' + beta C` step by step, where more than A depends on the input."""
    weight = op.tensor(1)
    if op.batch:
        op.refuse("its weight or its bias depends on the model's input", weight)
    if op.get_int("transA", 0):
        x = op.layer(Permute([2, 1]), x, part="transposed_a")
    if op.get_int("transB", 0):
        weight = op.layer(Permute([2, 1]), weight, part="transposed_b")
    y = op.layer(MatMul(), x, weight, part="product")
    if op.get_float("alpha", 1.0) != 1:
        y = op.layer(MultiplyConstant(op.get_float("alpha")), y, part="alpha")
    if op.value(2) is None:
        return y
    bias = op.tensor(2)
    if op.get_float("beta", 1.0) != 1:
        bias = op.layer(MultiplyConstant(op.get_float("beta")), bias, part="beta")
    return op.layer(Add(), y, bias)


@handler("MatMul")
def matmul(op: Op) -> Tensor:
    x, weight = op.value(0), op.value(1)
    if isinstance(x, Tensor) and isinstance(weight, Constant) and weight.fixed and weight.arrays[0].ndim in (1, 2) and x.sample:
        return _rows(op, x)
    return _matrices(op, op.tensor(0), op.tensor(1))


def _rows(op: Op, x: Tensor) -> Tensor:
    """The rows of x by a constant matrix: `Dense`; by a vector, each gives one number."""
    weight = op.weight(1, "weight")
    if x.sample[-1] != len(weight) or (not op.batch and x.rank < 2):
        op.refuse(f"its weight of shape {weight.shape} does not fit {x.sample[-1]} features")
    if weight.ndim == 2:
        return op.layer(Dense(weight.shape[1], bias=False), x, weight=weight.T)
    if len(x.sample) == 1:
        op.refuse("it leaves a sample without an axis")
    y = op.layer(Dense(1, bias=False), x, part="product", weight=weight[None])
    return op.layer(Reshape(list(x.sample[:-1])), y)


def _matrices(op: Op, x: Tensor, y: Tensor) -> Tensor:
    """The product of what depends on the input; a vector is a matrix of one row or of one column."""
    row, column = len(x.sample) == 1, len(y.sample) == 1
    if op.batch and (row or column):
        op.refuse("it multiplies along the batch axis")
    x = op.layer(Reshape([1, *x.sample]), x, part="row") if row else x
    y = op.layer(Reshape([*y.sample, 1]), y, part="column") if column else y
    if not (row or column):
        return op.layer(MatMul(), x, y)
    product = op.layer(MatMul(), x, y, part="product")
    shape = [*product.sample[:-2], *([] if row else product.sample[-2:-1]), *([] if column else product.sample[-1:])]
    return op.layer(Reshape(shape), product) if shape else op.refuse("its result has no axis")


@handler("Einsum", since=12)
def einsum(op: Op) -> Tensor:
    equation = (op.get_string("equation") or op.refuse("its equation is missing")).replace(" ", "")
    given, arrow, result = equation.partition("->")
    terms = given.split(",")
    if len(terms) != len(op.inputs):
        op.refuse(f"the equation {equation} has {len(terms)} operands, and there are {len(op.inputs)}")
    spare = [letter for letter in string.ascii_letters if letter not in equation]
    terms, dots = _spelled(op, terms, spare)
    if not arrow:
        letters = "".join(terms)
        result = "..." + "".join(sorted(c for c in set(letters) - set(dots) if letters.count(c) == 1))
    result = result.replace("...", dots)
    if not op.batch:
        terms, result = [spare[-1] + t for t in terms], spare[-1] + result
    tensors = [op.tensor(i) for i in range(len(terms))]
    return op.layer(Einsum(f"{','.join(_batched(op, terms, result))}->{result}"), *tensors)


def _spelled(op: Op, terms: list[str], spare: list[str]) -> tuple[list[str], str]:
    """The terms with letters for their dots, and the most that there are of those."""
    ranks = [v.rank if isinstance(v, Tensor) else v.arrays[0].ndim if v else 0 for v in op.inputs]
    counts = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    dots = "".join(spare[: max([c for c, t in zip(counts, terms, strict=True) if "..." in t], default=0)])
    if any(count < 0 for count in counts):
        op.refuse(f"{','.join(terms)} do not fit operands of {', '.join(map(str, ranks))} axes")
    return [t.replace("...", dots[len(dots) - c :]) for t, c in zip(terms, counts, strict=True)], dots


def _batched(op: Op, terms: list[str], result: str) -> list[str]:
    """The operands' letters with that of the batch in front, for constants too, which stand beside every sample."""
    batch = result[:1]
    found = []
    for term, value in zip(terms, op.inputs, strict=True):
        if isinstance(value, Constant) and batch not in term:
            found.append(batch + term)
        elif batch and term[:1] == batch:
            found.append(term)
        else:
            op.refuse("its batch axis is not the first of every operand and of the result")
    return found
