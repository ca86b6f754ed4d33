"""Lp pooling: the p-norm of each window."""

import numpy as np

from ...kernels import memory
from ...shapes import Window, check_pool
from .._arrays import as_array, check_gradient
from .windows import sums, sums_backward


def lp_pool(x: np.ndarray, win: Window, p: float) -> np.ndarray:
    """`(sum |x|^p)^(1/p)` over each window of `win`, `(N, C, *output)`; padding adds nothing."""
    x = as_array(x, "lp_pool: x", len(win.kernel) + 2)
    check_pool(x.shape[2:], win)
    powers = np.abs(x, out=memory.empty(x.shape, x.dtype))
    powers **= p
    y = sums(powers, win)
    y **= 1 / p
    return y


def lp_pool_backward(dy: np.ndarray, x: np.ndarray, y: np.ndarray, win: Window, p: float) -> np.ndarray:
    """`dx = sign(x) |x|^(p-1) sum dy y^(1-p)` over the windows of each pixel; a window with y = 0 gives 0.

    x and y are the input and the output of `lp_pool`.
    """
    x = as_array(x, "lp_pool: x", len(win.kernel) + 2)
    dy = check_gradient(dy, y.shape, "lp_pool", x.dtype)
    share = np.where(y == 0, y, dy * np.where(y == 0, 1, y) ** (1 - p))
    dx = sums_backward(share, x.shape, win)
    dx *= np.abs(x) ** (p - 1)
    dx *= np.sign(x)
    return dx
