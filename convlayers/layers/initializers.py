"""First values of parameters, by the name that a configuration holds.

`fan_in` is the number of products in the sum that gives an output, `fan_out` the number of sums that an input takes part in:
for a convolution `C/groups R S` and `M/groups R S`. Under a named initializer biases are 0.

Values are drawn in float64 and kept in float32, a stretch at a time: those of VGG-16's first dense layer would take 822 MB.
"""

from collections.abc import Callable
from math import prod, sqrt

import numpy as np

from ..errors import ConfigError
from ..layer import Shape
from ..randomness import NoDraws

Initializer = Callable[[np.random.Generator, Shape, int, int, int], np.ndarray]
_STRETCH = 1 << 18


def _drawn(draw: Callable[[int], np.ndarray], shape: Shape) -> np.ndarray:
    """The values that `draw(n)` gives one after the other, as float32."""
    values = np.empty(prod(shape), np.float32)
    for start in range(0, values.size, _STRETCH):
        part = values[start : start + _STRETCH]
        part[...] = draw(part.size)
    return values.reshape(shape)


def _uniform_within(rng: np.random.Generator, shape: Shape, bound: float) -> np.ndarray:
    return _drawn(lambda count: rng.uniform(-bound, bound, count), shape)


def _uniform(rng: np.random.Generator, shape: Shape, variance: float) -> np.ndarray:
    return _uniform_within(rng, shape, sqrt(3 * variance))


def _normal(rng: np.random.Generator, shape: Shape, variance: float) -> np.ndarray:
    return _drawn(lambda count: rng.normal(0.0, sqrt(variance), count), shape)


def _kaiming_uniform(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int, groups: int) -> np.ndarray:
    """Variance `2 / fan_in`: ReLUs keep the second moment of activations (He et al. 2015, with the gain sqrt(2))."""
    return _uniform(rng, shape, 2 / fan_in)


def _kaiming_normal(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int, groups: int) -> np.ndarray:
    """The same, normally distributed."""
    return _normal(rng, shape, 2 / fan_in)


def _glorot_uniform(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int, groups: int) -> np.ndarray:
    """Variance `2 / (fan_in + fan_out)`: a compromise between activations and gradients (Glorot and Bengio 2010)."""
    return _uniform(rng, shape, 2 / (fan_in + fan_out))


def _glorot_normal(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int, groups: int) -> np.ndarray:
    """The same, normally distributed."""
    return _normal(rng, shape, 2 / (fan_in + fan_out))


def _orthogonal(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int, groups: int) -> np.ndarray:
    """`W W^T = 1`, or `W^T W = 1` where that is smaller, for each group's `W` `(shape[0]/groups, the rest)` (Saxe et al. 2014).

    The Q of a Gaussian matrix, with the signs that make R's diagonal positive: uniform over all such (Mezzadri 2007).
    """
    rows, columns = shape[0] // groups, prod(shape[1:])
    gaussian = rng.standard_normal((groups, max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(gaussian)
    q *= np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    return (q if rows >= columns else q.swapaxes(1, 2)).reshape(shape).astype(np.float32, order="C")


def _zeros(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int, groups: int) -> np.ndarray:
    """For the last layer of a residual branch, which then starts as the identity (Goyal et al. 2017, section 5.1)."""
    return np.zeros(shape, np.float32)


_INITIALIZERS: dict[str, Initializer] = {
    "kaiming_uniform": _kaiming_uniform,
    "kaiming_normal": _kaiming_normal,
    "glorot_uniform": _glorot_uniform,
    "glorot_normal": _glorot_normal,
    "xavier_uniform": _glorot_uniform,
    "xavier_normal": _glorot_normal,
    "orthogonal": _orthogonal,
    "zeros": _zeros,
}


def check_initializer(init: str) -> str:
    """`init` if there is one of that name."""
    if not isinstance(init, str) or init not in ("default", *_INITIALIZERS):
        raise ConfigError(f"init must be one of default, {', '.join(_INITIALIZERS)}; got {init!r}")
    return init


def initial_parameters(
    init: str, rng: np.random.Generator, shape: Shape, biases: int | None, *, fan_in: int, fan_out: int, groups: int = 1
) -> dict[str, np.ndarray]:
    """`weight` of `shape` and, unless `biases` is None, as many values of `bias`, in float32.

    `"default"` is PyTorch's: both uniform within `1 / sqrt(n)`, n values in `weight[0]` (He et al. 2015 with a = sqrt(5)).
    """
    shapes = {"weight": shape} if biases is None else {"weight": shape, "bias": (biases,)}
    if isinstance(rng, NoDraws):
        return {name: rng.zeros(size, np.float32) for name, size in shapes.items()}
    if init == "default":
        bound = 1 / sqrt(max(prod(shape[1:]), 1))
        return {name: _uniform_within(rng, size, bound) for name, size in shapes.items()}
    weight = _INITIALIZERS[init](rng, shape, max(fan_in, 1), max(fan_out, 1), groups)
    return {name: weight if name == "weight" else np.zeros(size, np.float32) for name, size in shapes.items()}
