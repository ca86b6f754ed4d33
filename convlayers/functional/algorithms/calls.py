"""A kernel with everything bound to it but the arrays: what an algorithm gives for a problem.

Between kernels, Python finds its own code and data cold, and small networks spend more time there than in kernels. So what
follows from the sizes is found out once, thread count included, and a call is an array from the pool and the kernel.
"""

from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np

from ... import kernels
from ...kernels import memory
from .problem import Problem

Forward = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]
Maybe = np.ndarray | None
FusedForward = Callable[[np.ndarray, np.ndarray, Maybe, Maybe, Maybe], np.ndarray]
Backward = Callable[[np.ndarray, np.ndarray], np.ndarray]
BackwardOnto = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
BackwardBoth = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
WeightAdder = Callable[[np.ndarray, np.ndarray, np.ndarray, Maybe], None]


def ceiling(relu: bool | float) -> float:
    """What kernels hold outputs under, from 0 on: infinity for a ReLU, a float itself, its upper bound; 0 for none."""
    return relu if isinstance(relu, float) else inf if relu else 0.0


class Kept(dict[Any, np.ndarray]):
    """What kernels made of a layer's filters, for the next call of inference; a deep copy of the layer begins anew."""

    def __reduce__(self) -> tuple[type, tuple]:
        return Kept, ()


def forward_call(kernel: Callable, problem: Problem, *how: Any) -> Forward:
    """y of x, w and the bias or None, by `kernel(x, w, bias, y, *how)`."""
    shape, dtype = problem.y, problem.type

    def run(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        y = memory.empty(shape, dtype)
        if y.size:
            kernel(x, w, bias, y, *how)
        return y

    return run


def fused_call(kernel: Callable, problem: Problem, pooled: bool, *how: Any) -> FusedForward:
    """`scale y + shift + residual` of x, w, the scale and the shift, `(M,)` each, and the residual, any of which may be None,
    by `kernel(x, w, shift, y, *how, scale, residual)`; `pooled`, y has half the rows and columns."""
    (*outer, p, q), dtype = problem.y, problem.type
    shape = (*outer, p // 2, q // 2) if pooled else problem.y

    def run(x: np.ndarray, w: np.ndarray, scale: Maybe, shift: Maybe, residual: Maybe) -> np.ndarray:
        y = memory.empty(shape, dtype)
        if y.size:
            kernel(x, w, shift, y, *how, scale, None if residual is None else residual.reshape(-1))
        return y

    return run


def scaled_call(kernel: Callable, problem: Problem, *how: Any) -> FusedForward:
    """The same without a residual, which is None, by `kernel(x, w, shift, y, *how, scale)`."""
    shape, dtype = problem.y, problem.type

    def run(x: np.ndarray, w: np.ndarray, scale: Maybe, shift: Maybe, residual: Maybe) -> np.ndarray:
        y = memory.empty(shape, dtype)
        if y.size:
            kernel(x, w, shift, y, *how, scale)
        return y

    return run


def input_call(kernel: Callable, problem: Problem, *how: Any) -> Backward:
    """dx of dy and w, by `kernel(dy, w, None, dx, *how)`: there is no bias."""
    shape, dtype = problem.x, problem.type

    def run(dy: np.ndarray, w: np.ndarray) -> np.ndarray:
        dx = memory.empty(shape, dtype)
        if dx.size:
            kernel(dy, w, None, dx, *how)
        return dx

    return run


def onto_call(kernel: Callable, problem: Problem, *how: Any) -> BackwardOnto:
    """dx of dy and w, plus an array of its shape, by `kernel(dy, w, None, dx, *how, None, array)`: no bias, no scale."""
    shape, dtype = problem.x, problem.type

    def run(dy: np.ndarray, w: np.ndarray, array: np.ndarray) -> np.ndarray:
        dx = memory.empty(shape, dtype)
        if dx.size:
            kernel(dy, w, None, dx, *how, None, array.reshape(-1))
        return dx

    return run


def both_call(kernel: Callable, problem: Problem, *how: Any) -> BackwardBoth:
    """dw and db of dy and x, by `kernel(dy, x, dw, *how, db)`."""
    shape, dtype = problem.w, problem.type

    def run(dy: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        dw, db = memory.empty(shape, dtype), memory.empty(shape[:1], dtype)
        kernel(dy, x, dw, *how, db)
        return dw, db

    return run


def weight_call(kernel: Callable, problem: Problem, *how: Any) -> Backward:
    """dw of dy and x, by `kernel(dy, x, dw, *how)`."""
    shape, dtype = problem.w, problem.type

    def run(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        dw = memory.empty(shape, dtype)
        if x.size:
            kernel(dy, x, dw, *how)
        else:
            kernels.run(np.copyto, dw, 0)
        return dw

    return run
