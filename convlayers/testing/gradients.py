"""Gradients against central differences, in float64.

For a loss `L` of an array `x` and a direction `u`, `(L(x + h u) - L(x - h u)) / 2h = <dL/dx, u> + O(h^2)`. Directions are
single elements, which say where an error lies, and a few of all elements at once with random signs, which miss none.
"""

from collections.abc import Callable, Iterator

import numpy as np

from .inputs import spacing

# h^2 of truncation, and a rounding of about 1e-16 / h, both stay far below this.
TOLERANCE = 1e-6
_STEP = 1e-5
_MOST_ELEMENTS = 200
_DENSE_DIRECTIONS = 4


def _directions(shape: tuple[int, ...], rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    size = int(np.prod(shape))
    for flat in rng.permutation(size)[:_MOST_ELEMENTS]:
        direction = np.zeros(size)
        direction[flat] = 1
        where = ", ".join(str(int(i)) for i in np.unravel_index(flat, shape))
        yield f"element [{where}]", direction.reshape(shape)
    for number in range(_DENSE_DIRECTIONS):
        yield f"dense direction {number}", rng.choice([-1.0, 1.0], shape)


def assert_gradient(
    loss: Callable[[np.ndarray], float], x: np.ndarray, gradient: np.ndarray, rng: np.random.Generator, name: str = "x"
) -> None:
    """Fail unless `gradient` is that of the scalar `loss` at the float64 array `x`.

    `x` is drawn by `spread`, or `loss` is smooth: the step is small against the distance to the nearest kink of such an x.
    """
    assert gradient.shape == x.shape, f"the gradient of {name} has shape {gradient.shape}, {name} has {x.shape}"
    step = min(_STEP, 0.05 * spacing(x.size))
    scale = max(1.0, float(np.abs(gradient).max(initial=0.0)))
    for where, direction in _directions(x.shape, rng):
        expected = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
        actual = float((gradient * direction).sum())
        size = np.sqrt(np.abs(direction).sum())
        error = abs(actual - expected) / (scale * size)
        assert error <= TOLERANCE, f"the gradient of {name}, {where}: {actual:.9g}; by central differences {expected:.9g}"
