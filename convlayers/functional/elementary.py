"""Elementary functions by NumPy, value by value; `activation` knows them by name, beside the compiled ones.

    add_constant       x + a                  multiply_constant  a x
    power_constant     x^a                    reciprocal         1 / x
    abs, negative      |x|, -x                exp, log, sqrt     e^x, the natural logarithm, the root
    softsign           x / (1 + |x|)          thresholded_relu   x where x > a, else 0

Each writes y, and dx from dy and from what the forward pass kept: y for exp, reciprocal and sqrt, x for the others.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Elementary(NamedTuple):
    """`value(x, y, a)` fills y, `gradient(dy, kept, dx, a)` fills dx."""

    value: Callable[[np.ndarray, np.ndarray, float], object]
    gradient: Callable[[np.ndarray, np.ndarray, np.ndarray, float], object]


def _power(x: np.ndarray, y: np.ndarray, a: float) -> None:
    if a == 2:
        np.square(x, out=y)
    else:
        np.power(x, a, out=y)


def _power_gradient(dy: np.ndarray, x: np.ndarray, dx: np.ndarray, a: float) -> None:
    if a == 0:
        dx.fill(0)
        return
    _power(x, dx, a - 1)
    dx *= a
    dx *= dy


def _reciprocal_gradient(dy: np.ndarray, y: np.ndarray, dx: np.ndarray, a: float) -> None:
    np.multiply(dy, y, out=dx)
    dx *= y
    np.negative(dx, out=dx)


def _sqrt_gradient(dy: np.ndarray, y: np.ndarray, dx: np.ndarray, a: float) -> None:
    np.divide(dy, y, out=dx)
    dx *= 0.5


def _softsign(x: np.ndarray, y: np.ndarray, a: float) -> None:
    np.abs(x, out=y)
    y += 1
    np.divide(x, y, out=y)


def _softsign_gradient(dy: np.ndarray, x: np.ndarray, dx: np.ndarray, a: float) -> None:
    np.abs(x, out=dx)
    dx += 1
    np.square(dx, out=dx)
    np.divide(dy, dx, out=dx)


def _above(values: np.ndarray, x: np.ndarray, out: np.ndarray, a: float) -> None:
    """`values` where x > a or x is NaN, else 0."""
    np.copyto(out, values)
    np.copyto(out, 0, where=x <= a)


ELEMENTARY: dict[str, Elementary] = {
    "abs": Elementary(lambda x, y, a: np.abs(x, out=y), lambda dy, x, dx, a: np.multiply(dy, np.sign(x), out=dx)),
    "add_constant": Elementary(lambda x, y, a: np.add(x, a, out=y), lambda dy, x, dx, a: np.copyto(dx, dy)),
    "exp": Elementary(lambda x, y, a: np.exp(x, out=y), lambda dy, y, dx, a: np.multiply(dy, y, out=dx)),
    "log": Elementary(lambda x, y, a: np.log(x, out=y), lambda dy, x, dx, a: np.divide(dy, x, out=dx)),
    "multiply_constant": Elementary(lambda x, y, a: np.multiply(x, a, out=y), lambda dy, x, dx, a: np.multiply(dy, a, out=dx)),
    "negative": Elementary(lambda x, y, a: np.negative(x, out=y), lambda dy, x, dx, a: np.negative(dy, out=dx)),
    "power_constant": Elementary(_power, _power_gradient),
    "reciprocal": Elementary(lambda x, y, a: np.reciprocal(x, out=y), _reciprocal_gradient),
    "softsign": Elementary(_softsign, _softsign_gradient),
    "sqrt": Elementary(lambda x, y, a: np.sqrt(x, out=y), _sqrt_gradient),
    "thresholded_relu": Elementary(lambda x, y, a: _above(x, x, y, a), lambda dy, x, dx, a: _above(dy, x, dx, a)),
}
