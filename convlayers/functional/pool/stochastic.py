"""Stochastic pooling: one activation of each window, drawn with probability proportional to it."""

import numpy as np

from ...errors import DataError
from ...kernels import memory
from ...shapes import Window, check_pool, extents
from .._arrays import as_array, check_gradient
from .windows import max_pool_backward, sums, sums_backward, taps


def stochastic_pool(x: np.ndarray, win: Window, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The activation of each window that `draws`, uniform in [0, 1), picks, and its tap: `(y, index)`, both `(N, C, P, Q)`.

    The one is picked at which the running sum of the window, in row order, passes `draws` of its total: never padding and
    never a zero. A window of zeros gives 0, one with NaN or infinity NaN. Raises `DataError` for values below 0.
    """
    x = as_array(x, "stochastic_pool: x", 4)
    check_pool(x.shape[2:], win)
    if (x < 0).any():
        raise DataError(f"takes no values below 0, which are no probabilities; got {np.nanmin(x):.4g}; put a ReLU before it")
    total = sums(x, win)
    y = memory.empty(total.shape, x.dtype)
    index, below = np.zeros(total.shape, np.intc), np.zeros_like(total)
    padded = np.pad(x, ((0, 0), (0, 0), *extents(x.shape[2:], win)))
    with np.errstate(all="ignore"):  # the shares of a window without a finite total above 0 are NaN, and nothing is picked
        np.multiply(total, 0, out=y)
        for tap, where in enumerate(taps(win)):
            value = padded[:, :, *where]
            share = value / total
            picked = (share > 0) & (below <= draws)
            np.copyto(y, value, where=picked)
            np.copyto(index, tap, where=picked)
            below += share
    return y, index


def stochastic_pool_backward(
    dy: np.ndarray, y: np.ndarray, index: np.ndarray, x_shape: tuple[int, ...], win: Window
) -> np.ndarray:
    """`dy` to the activation that was drawn, from what `stochastic_pool` gave; a window in which none was gives 0."""
    dy = check_gradient(dy, y.shape, "stochastic_pool", y.dtype)
    return max_pool_backward(np.where(y > 0, dy, 0), (index,), x_shape, win)


def expected_pool(x: np.ndarray, win: Window) -> tuple[np.ndarray, np.ndarray]:
    """What `stochastic_pool` gives on average, `sum x^2 / sum x`, and the sum: `(y, total)`, both `(N, C, P, Q)`.

    Values below 0 count as 0; a window of zeros gives 0.
    """
    x = as_array(x, "expected_pool: x", 4)
    check_pool(x.shape[2:], win)
    positive = np.maximum(x, 0, out=memory.empty(x.shape, x.dtype))
    total = sums(positive, win)
    y = sums(np.square(positive, out=positive), win)
    np.divide(y, total, out=y, where=total != 0)
    return y, total


def expected_pool_backward(dy: np.ndarray, x: np.ndarray, y: np.ndarray, total: np.ndarray, win: Window) -> np.ndarray:
    """`dx = sum dy (2 x - y) / total` over the windows of each pixel with x >= 0, from what `expected_pool` gave."""
    x = as_array(x, "expected_pool: x", 4)
    dy = check_gradient(dy, y.shape, "expected_pool", x.dtype)
    share = np.divide(dy, total, out=np.zeros_like(y), where=total != 0)
    dx = sums_backward(share, x.shape, win)
    dx *= 2 * x
    dx -= sums_backward(share * y, x.shape, win)
    dx[x < 0] = 0
    return dx
