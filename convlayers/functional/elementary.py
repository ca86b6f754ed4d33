"""Elementary functions by NumPy, value by value; `activation` knows them by name, beside the compiled ones.

    add_constant       x + a                  multiply_constant  a x
    power_constant     x^a                    reciprocal         1 / x
    abs, negative      |x|, -x                exp, log, sqrt     e^x, the natural logarithm, the root
    erf                2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x
    celu               x where x > 0, else a (e^(x/a) - 1)
    softsign           x / (1 + |x|)          thresholded_relu   x where x > a, else 0

Each writes y, and dx from dy and from what the forward pass kept: y for exp, reciprocal and sqrt, x for the others.
"""

from collections.abc import Callable
from math import factorial, pi, sqrt
from typing import NamedTuple

import numpy as np

from .. import kernels
from ..kernels import threads_for

_ERF_WORK = 16
# Below, 1 - 2 P loses digits; so many terms of the series are enough up to there.
_NEAR, _TERMS = 1.0, 20


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


def _erf(x: np.ndarray, y: np.ndarray, a: float) -> None:
    """`sign(x) (1 - 2 P(-sqrt(2) |x|))` by the GELU kernel, which has `t P(t)` to the last digits; near 0 the power series."""
    t = np.abs(x)
    near = t < _NEAR
    t *= -sqrt(2)
    if t.size:
        kernel = kernels.compiled(x.dtype).activation_forward
        kernel("gelu", t.reshape(-1), y.reshape(-1), 0, 0, threads_for(_ERF_WORK * t.size))
    y /= t
    y *= -2
    y += 1
    np.copysign(y, x, out=y)
    z = x[near]
    z2, total = z * z, np.zeros_like(z)
    for k in reversed(range(_TERMS)):
        total *= z2
        total += (-1) ** k / (factorial(k) * (2 * k + 1))
    y[near] = total * z * (2 / sqrt(pi))


def _erf_gradient(dy: np.ndarray, x: np.ndarray, dx: np.ndarray, a: float) -> None:
    np.square(x, out=dx)
    np.negative(dx, out=dx)
    np.exp(dx, out=dx)
    dx *= dy
    dx *= 2 / sqrt(pi)


def _celu(x: np.ndarray, y: np.ndarray, a: float) -> None:
    np.minimum(x, 0, out=y)
    y /= a
    np.expm1(y, out=y)
    y *= a
    np.copyto(y, x, where=x > 0)


def _celu_gradient(dy: np.ndarray, x: np.ndarray, dx: np.ndarray, a: float) -> None:
    np.minimum(x, 0, out=dx)
    dx /= a
    np.exp(dx, out=dx)
    dx *= dy


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
    "celu": Elementary(_celu, _celu_gradient),
    "erf": Elementary(_erf, _erf_gradient),
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
