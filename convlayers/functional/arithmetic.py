"""Arithmetic of several arrays, value by value, and its gradients, with NumPy.

Samples broadcast from their last axis on, as in NumPy: an axis of size 1 meets any size, and an array of fewer axes gets axes
of size 1 behind the batch, which is axis 0 of every array.
"""

from collections.abc import Callable, Sequence

import numpy as np

from .. import kernels
from ..errors import ConfigError, ShapeError
from ..kernels import memory
from ._arrays import as_array, check_gradient
from .pointwise import add_up, quietly


def aligned(arrays: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
    """The arrays in the first one's data type, and all of one rank."""
    first = as_array(arrays[0], f"{name}: input 0")
    given = [first, *(as_array(a, f"{name}: input {n}", dtype=first.dtype) for n, a in enumerate(arrays[1:], 1))]
    rank = max(a.ndim for a in given)
    return [a.reshape((*a.shape[:1], *(1,) * (rank - a.ndim), *a.shape[1:])) for a in given]


def _met(arrays: Sequence[np.ndarray], name: str) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError:
        shapes = ", ".join(str(a.shape) for a in arrays)
        raise ShapeError(f"{name}: along each axis inputs must have one size, or size 1; got {shapes}") from None


def arithmetic(name: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The arrays one after the other under "add", "subtract", "multiply", "divide", "power", "maximum" or "minimum".

    Two arrays or more; the last takes the place of the second in what the others gave: `(a - b) - c`.
    """
    operation, _ = _known(name)
    first, *others = arrays = aligned(arrays, name)
    y = memory.empty(_met(arrays, name), first.dtype)
    for array in others:
        kernels.run(quietly, _compute, operation, first, array, y)
        first = y
    return y


def _compute(operation: np.ufunc, a: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
    operation(a, b, out=y)


def arithmetic_backward(name: str, dy: np.ndarray, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The gradients of `arithmetic`, one for each input: summed over the axes along which it was repeated.

    "divide", "power" and "subtract" are those of two arrays. The gradient of "maximum" and "minimum" goes to the first of
    equal ones, that of "power" is 0 with respect to a base whose exponent is 0 and to an exponent whose power is 0.
    """
    _, gradient = _known(name)
    shapes = [np.shape(a) for a in arrays]
    arrays = aligned(arrays, name)
    dy = as_array(dy, f"{name}: dy", dtype=arrays[0].dtype)
    dy = check_gradient(dy, _met(arrays, name), name, dy.dtype)
    return [
        folded(gradient(number, dy, arrays), array.shape).reshape(shape)
        for number, (array, shape) in enumerate(zip(arrays, shapes, strict=True))
    ]


def folded(dx: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`dx` summed over the axes along which an array of `shape` was repeated."""
    repeated = tuple(axis for axis, (n, m) in enumerate(zip(shape, dx.shape, strict=True)) if n != m)
    if not repeated:
        return dx
    total = memory.empty(shape, dx.dtype)
    kernels.run(quietly, add_up, dx, repeated, total)
    return total


def _of_sum(number: int, dy: np.ndarray, arrays: list[np.ndarray]) -> np.ndarray:
    return dy


def _of_difference(number: int, dy: np.ndarray, arrays: list[np.ndarray]) -> np.ndarray:
    if not number:
        return dy
    dx = memory.empty(dy.shape, dy.dtype)
    kernels.run(np.negative, dy, dx)
    return dx


def _of_product(number: int, dy: np.ndarray, arrays: list[np.ndarray]) -> np.ndarray:
    return multiply([dy, *arrays[:number], *arrays[number + 1 :]])


def _of_quotient(number: int, dy: np.ndarray, arrays: list[np.ndarray]) -> np.ndarray:
    a, b = arrays
    dx = memory.empty(dy.shape, dy.dtype)
    kernels.run(quietly, _compute, np.divide, dy, b, dx)
    if number:
        kernels.run(quietly, _compute, np.multiply, dx, arithmetic("divide", [a, b]), dx)
        kernels.run(np.negative, dx, dx)
    return dx


def _of_power(number: int, dy: np.ndarray, arrays: list[np.ndarray]) -> np.ndarray:
    a, b = arrays
    dx = arithmetic("power", [a, b]) if number else memory.empty(dy.shape, dy.dtype)
    kernels.run(quietly, _to_exponent if number else _to_base, dy, a, b, dx)
    return dx


def _to_exponent(dy: np.ndarray, a: np.ndarray, b: np.ndarray, dx: np.ndarray) -> None:
    """dx holds the power."""
    dx[...] = np.where(dx == 0, dx, dx * np.log(a) * dy)


def _to_base(dy: np.ndarray, a: np.ndarray, b: np.ndarray, dx: np.ndarray) -> None:
    np.power(a, b - 1, out=dx)
    dx *= dy
    np.copyto(dx, 0, where=b == 0)
    dx *= b


def _of_extreme(choose: np.ufunc) -> Callable[[int, np.ndarray, list[np.ndarray]], np.ndarray]:
    def gradient(number: int, dy: np.ndarray, arrays: list[np.ndarray]) -> np.ndarray:
        dx = arithmetic(choose.__name__, arrays)
        kernels.run(quietly, _to_first, dy, arrays[number], arrays[:number], dx)
        return dx

    return gradient


def _to_first(dy: np.ndarray, array: np.ndarray, earlier: Sequence[np.ndarray], dx: np.ndarray) -> None:
    """dx holds the extreme of all."""
    wins = array == dx
    for other in earlier:
        wins &= other != dx
    np.multiply(dy, wins, out=dx)


_Gradient = Callable[[int, np.ndarray, list[np.ndarray]], np.ndarray]
_OPERATIONS: dict[str, tuple[np.ufunc, _Gradient]] = {
    "add": (np.add, _of_sum),
    "subtract": (np.subtract, _of_difference),
    "multiply": (np.multiply, _of_product),
    "divide": (np.divide, _of_quotient),
    "power": (np.power, _of_power),
    "maximum": (np.maximum, _of_extreme(np.maximum)),
    "minimum": (np.minimum, _of_extreme(np.minimum)),
}


def _known(name: str) -> tuple[np.ufunc, _Gradient]:
    if name not in _OPERATIONS:
        raise ConfigError(f"arithmetic is one of {', '.join(_OPERATIONS)}; got {name!r}")
    return _OPERATIONS[name]


def multiply(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The product of two or more arrays, in order."""
    return arithmetic("multiply", arrays)


def multiply_backward(dy: np.ndarray, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The gradients of `multiply`: for each input `dy` times the others."""
    return arithmetic_backward("multiply", dy, arrays)
