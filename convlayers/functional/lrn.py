"""Local response normalization: each value over the energy of the channels beside it."""

from collections.abc import Callable
from math import prod

import numpy as np

from .. import kernels
from ..kernels import memory
from ..shapes import Window
from ._arrays import as_array, check_gradient
from .pool.windows import sums, sums_backward


def _beside(x: np.ndarray, size: int, total: Callable[[np.ndarray, Window], np.ndarray]) -> np.ndarray:
    """`total` of a window of `size` channels around each value, as if x were images of channels by pixels."""
    n, channels, *pixels = x.shape
    before, area = (size - 1) // 2, prod(pixels)
    win = Window((size, 1), (1, 1), (1, 1), ((before, size - 1 - before), (0, 0)), (channels, area))
    return total(x.reshape(n, 1, channels, area), win).reshape(x.shape)


def lrn(x: np.ndarray, size: int, alpha: float, beta: float, bias: float) -> tuple[np.ndarray, np.ndarray]:
    """`y = x / s^beta` with `s = bias + alpha / size sum x^2` over `size` channels, and s: both `(N, C, ...)`."""
    x = as_array(x, "lrn: x")
    squares, y = memory.empty(x.shape, x.dtype), memory.empty(x.shape, x.dtype)
    kernels.run(np.square, x, squares)
    s = _beside(squares, size, sums)
    kernels.run(_scale, x, s, alpha / size, beta, bias, y)
    return y, s


def _scale(x: np.ndarray, s: np.ndarray, alpha: float, beta: float, bias: float, y: np.ndarray) -> None:
    s *= alpha
    s += bias
    np.power(s, -beta, out=y)
    y *= x


def lrn_backward(
    dy: np.ndarray, x: np.ndarray, y: np.ndarray, s: np.ndarray, size: int, alpha: float, beta: float
) -> np.ndarray:
    """`dx_c = dy_c s_c^-beta - 2 alpha beta / size x_c sum dy_d y_d / s_d` over the channels d that c is beside."""
    x = as_array(x, "lrn: x")
    dy = check_gradient(dy, x.shape, "lrn", x.dtype)
    shares, dx = memory.empty(x.shape, x.dtype), memory.empty(x.shape, x.dtype)
    kernels.run(_share, dy, y, s, shares)
    share = _beside(shares, size, lambda given, win: sums_backward(given, given.shape, win))
    kernels.run(_subtract_share, dy, x, s, beta, 2 * alpha * beta / size, share, dx)
    return dx


def _share(dy: np.ndarray, y: np.ndarray, s: np.ndarray, share: np.ndarray) -> None:
    np.multiply(dy, y, out=share)
    share /= s


def _subtract_share(
    dy: np.ndarray, x: np.ndarray, s: np.ndarray, beta: float, factor: float, share: np.ndarray, dx: np.ndarray
) -> None:
    share *= x
    share *= factor
    np.power(s, -beta, out=dx)
    dx *= dy
    dx -= share
