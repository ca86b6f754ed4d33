"""Products of stacks of matrices, and sums of products by Einstein's convention, through the kernel for one product.

An equation is its terms: `"nij,njk->nik"` has the terms `nij` and `njk` and the result `nik`. Two terms are contracted as a
product of matrices: letters of both that stay make a stack, letters of one rows or columns, letters of both that go are summed.
"""

from collections.abc import Collection, Sequence
from math import prod

import numpy as np

from .. import kernels
from ..errors import ShapeError
from ..kernels import memory, threads_for
from ._arrays import as_array, check_gradient
from .arithmetic import aligned, folded

# Multiply-adds of one product up to which NumPy's loop over the stack takes less time than the calls of the kernel.
_SMALL = 4096


def _stacked(a: np.ndarray, b: np.ndarray, transpose_a: bool = False, transpose_b: bool = False) -> np.ndarray:
    """The product of each matrix of a stack with one of another of the same rank, transposed as asked."""
    stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    k, m = a.shape[-2:] if transpose_a else a.shape[:-3:-1]
    n = b.shape[-2] if transpose_b else b.shape[-1]
    c = memory.empty((*stack, m, n), a.dtype)
    if m * n * k <= _SMALL:
        left, right = "...ki" if transpose_a else "...ik", "...jk" if transpose_b else "...kj"
        kernels.run(_einsum, f"{left},{right}->...ij", (a, b), c)
        return c
    kernel, threads = kernels.compiled(a.dtype).gemm, threads_for(m * n * k)
    a, b = (np.broadcast_to(x, stack + x.shape[-2:]) for x in (a, b))
    for place in np.ndindex(stack):
        kernel(a[place], b[place], None, c[place], transpose_a, transpose_b, False, False, threads)
    return c


def _einsum(equation: str, arrays: Sequence[np.ndarray], out: np.ndarray) -> None:
    np.einsum(equation, *arrays, out=out)


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`y = a @ b`, a `(N, ..., I, K)`, b `(N, ..., K, J)`, y `(N, ..., I, J)`; stacks broadcast behind the batch."""
    a, b = _matrices(a, b)
    return _stacked(a, b)


def _matrices(a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    shapes = np.shape(a), np.shape(b)
    if min(map(len, shapes)) < 3 or shapes[0][-1] != shapes[1][-2]:
        raise ShapeError(f"matmul: a must be (N, ..., I, K) and b (N, ..., K, J); got {shapes[0]} and {shapes[1]}")
    return aligned([a, b], "matmul")


def matmul_backward(dy: np.ndarray, a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    """The gradients of `matmul`: `dy @ b^T` and `a^T @ dy`, summed over the axes along which an input was repeated."""
    shapes = [np.shape(a), np.shape(b)]
    a, b = _matrices(a, b)
    expected = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    dy = check_gradient(dy, expected, "matmul", a.dtype)
    da, db = _stacked(dy, b, transpose_b=True), _stacked(a, dy, transpose_a=True)
    return [folded(da, a.shape).reshape(shapes[0]), folded(db, b.shape).reshape(shapes[1])]


def einsum(terms: Sequence[str], result: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The sum over all letters that `result` has not of the product of the arrays, one axis a letter.

    A letter that stands twice in a term takes its diagonal. Sizes of one letter are the same.
    """
    first = as_array(arrays[0], "einsum: input 0")
    given = [first, *(as_array(a, f"einsum: input {n}", dtype=first.dtype) for n, a in enumerate(arrays[1:], 1))]
    _check_sizes(terms, given)
    term, value = _alone(terms[0], given[0], set("".join([result, *terms[1:]])))
    for number, (other, array) in enumerate(zip(terms[1:], given[1:], strict=True), 2):
        later = set("".join([result, *terms[number:]]))
        term, value = _contracted(term, value, *_alone(other, array, later | set(term)), later)
    return _ordered(value, term, result)


def einsum_backward(dy: np.ndarray, terms: Sequence[str], result: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The gradients of `einsum`: for each term the sum of `dy` times the others, repeated along letters of that term alone."""
    return [_of_term(dy, terms, result, arrays, number) for number in range(len(terms))]


def _of_term(dy: np.ndarray, terms: Sequence[str], result: str, arrays: Sequence[np.ndarray], number: int) -> np.ndarray:
    x, term = arrays[number], terms[number]
    others = [result, *terms[:number], *terms[number + 1 :]]
    found = "".join(dict.fromkeys(letter for letter in term if letter in "".join(others)))
    part = einsum(others, found, [dy.astype(x.dtype, copy=False), *arrays[:number], *arrays[number + 1 :]])
    dx = memory.empty(x.shape, x.dtype)
    kernels.run(np.copyto, dx, 0)
    once = "".join(dict.fromkeys(term))
    # A view of the diagonals, which alone were read.
    read = np.einsum(f"{term}->{once}", dx)
    part = part.reshape([size if letter in found else 1 for letter, size in zip(once, read.shape, strict=True)])
    kernels.run(np.copyto, read, part)
    return dx


def _check_sizes(terms: Sequence[str], arrays: Sequence[np.ndarray]) -> None:
    sizes: dict[str, int] = {}
    for term, array in zip(terms, arrays, strict=True):
        if len(term) != array.ndim:
            raise ShapeError(f"einsum: {term} has {len(term)} letters, and its input the shape {array.shape}")
        for letter, size in zip(term, array.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise ShapeError(f"einsum: the letter {letter} has the sizes {sizes[letter]} and {size}")


def _alone(term: str, x: np.ndarray, kept: Collection[str]) -> tuple[str, np.ndarray]:
    """x without the letters that are its own, which are summed, and with one axis for each of the others."""
    rest = "".join(dict.fromkeys(letter for letter in term if letter in kept))
    if rest == term:
        return rest, x
    y = memory.empty(tuple(x.shape[term.index(letter)] for letter in rest), x.dtype)
    kernels.run(_einsum, f"{term}->{rest}", (x,), y)
    return rest, y


def _contracted(left: str, a: np.ndarray, right: str, b: np.ndarray, kept: Collection[str]) -> tuple[str, np.ndarray]:
    """The product of two terms, summed over the letters that are not kept."""
    both = [letter for letter in left if letter in right]
    stack, summed = ("".join(c for c in both if (c in kept) == stays) for stays in (True, False))
    rows, columns = ("".join(c for c in term if c not in both) for term in (left, right))
    sizes = {**dict(zip(left, a.shape, strict=True)), **dict(zip(right, b.shape, strict=True))}
    s, m, k, n = (prod(sizes[c] for c in letters) for letters in (stack, rows, summed, columns))
    a = _ordered(a, left, stack + rows + summed).reshape(s, m, k)
    b = _ordered(b, right, stack + summed + columns).reshape(s, k, n)
    term = stack + rows + columns
    return term, _stacked(a, b).reshape([sizes[c] for c in term])


def _ordered(x: np.ndarray, term: str, order: str) -> np.ndarray:
    turned = x.transpose([term.index(letter) for letter in order])
    if turned.flags.c_contiguous:
        return turned
    y = memory.empty(turned.shape, x.dtype)
    kernels.run(np.copyto, y, turned)
    return y
