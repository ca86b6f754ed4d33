"""Convolution."""

from math import prod

import numpy as np

from ...shapes import Window
from .windows import fold, patches


def _grouped(array: np.ndarray, axis: int, groups: int) -> np.ndarray:
    shape = array.shape
    return array.reshape(*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])


def conv_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, win: Window, groups: int) -> np.ndarray:
    """`y[n,m,p] = b[m] + sum_cr x[n,c,p s + r d - pad] w[m,c,r]`; x `(N,C,*size)`, w `(M,C/g,*kernel)`."""
    columns = _grouped(patches(x, win), 1, groups)
    filters = _grouped(w.astype(np.float64).reshape(*w.shape[:2], -1), 0, groups)
    y = np.einsum("ngcrp,gmcr->ngmp", columns, filters, optimize=True)
    y = y.reshape(len(x), len(w), *win.output)
    return y if b is None else y + b.astype(np.float64).reshape(-1, *(1,) * len(win.output))


def conv_backward_input(dy: np.ndarray, w: np.ndarray, shape: tuple[int, ...], win: Window, groups: int) -> np.ndarray:
    """`dx = fold(sum_m dy[n,m,p] w[m,c,r])`: each product goes back to the pixel that it was read from."""
    outputs = _grouped(dy.astype(np.float64).reshape(*dy.shape[:2], prod(win.output)), 1, groups)
    filters = _grouped(w.astype(np.float64).reshape(*w.shape[:2], -1), 0, groups)
    columns = np.einsum("ngmp,gmcr->ngcrp", outputs, filters, optimize=True)
    return fold(columns.reshape(shape[0], shape[1], prod(win.kernel), prod(win.output)), shape, win)


def conv_backward_weight(
    dy: np.ndarray, x: np.ndarray, shape: tuple[int, ...], win: Window, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """`dw[m,c,r] = sum_np dy[n,m,p] x[n,c,p s + r d - pad]` and `db[m] = sum_np dy[n,m,p]`; `shape` is that of w."""
    outputs = dy.astype(np.float64).reshape(*dy.shape[:2], prod(win.output))
    dw = np.einsum("ngcrp,ngmp->gmcr", _grouped(patches(x, win), 1, groups), _grouped(outputs, 1, groups), optimize=True)
    return dw.reshape(shape), outputs.sum(axis=(0, 2))
