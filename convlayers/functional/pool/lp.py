"""Lp pooling: the p-norm of each window."""

import numpy as np

from ... import kernels
from ...kernels import memory
from ...shapes import Window, check_pool
from .._arrays import as_array, check_gradient
from .windows import sums, sums_backward


def lp_pool(x: np.ndarray, win: Window, p: float) -> np.ndarray:
    """`(sum |x|^p)^(1/p)` over each window of `win`, `(N, C, *output)`; padding adds nothing."""
    x = as_array(x, "lp_pool: x", len(win.kernel) + 2)
    check_pool(x.shape[2:], win)
    powers = memory.empty(x.shape, x.dtype)
    kernels.run(_raise, x, p, powers)
    y = sums(powers, win)
    kernels.run(np.power, y, 1 / p, y)
    return y


def _raise(x: np.ndarray, p: float, powers: np.ndarray) -> None:
    np.abs(x, out=powers)
    powers **= p


def lp_pool_backward(dy: np.ndarray, x: np.ndarray, y: np.ndarray, win: Window, p: float) -> np.ndarray:
    """`dx = sign(x) |x|^(p-1) sum dy y^(1-p)` over the windows of each pixel; a window with y = 0 gives 0.

    x and y are the input and the output of `lp_pool`.
    """
    x = as_array(x, "lp_pool: x", len(win.kernel) + 2)
    dy = check_gradient(dy, y.shape, "lp_pool", x.dtype)
    share = memory.empty(y.shape, y.dtype)
    kernels.run(_share, dy, y, p, share)
    dx = sums_backward(share, x.shape, win)
    kernels.run(_slope, x, p, dx)
    return dx


def _share(dy: np.ndarray, y: np.ndarray, p: float, share: np.ndarray) -> None:
    share[...] = np.where(y == 0, y, dy * np.where(y == 0, 1, y) ** (1 - p))


def _slope(x: np.ndarray, p: float, dx: np.ndarray) -> None:
    dx *= np.abs(x) ** (p - 1)
    dx *= np.sign(x)
