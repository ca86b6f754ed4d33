"""The direct algorithm where every channel has filters of its own (ext/depthwise.pxi, ext/depthwise_weight.pxi)."""

import numpy as np

from ... import kernels
from ...kernels import memory, threads_for
from .._arrays import NO_BIAS
from .problem import Problem, geometry


def forward(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, problem: Problem, relu: bool) -> np.ndarray:
    """y, or max(y, 0)."""
    y = memory.empty(problem.y, x.dtype)
    if y.size:
        kernel = kernels.compiled(x.dtype).depthwise
        bias = NO_BIAS[x.dtype] if bias is None else bias
        kernel(x, w, bias, y, geometry(problem), False, relu, threads_for(problem.work))
    return y


def backward_input(dy: np.ndarray, w: np.ndarray, problem: Problem) -> np.ndarray:
    """dx."""
    dx = memory.empty(problem.x, dy.dtype)
    if dx.size:
        kernel = kernels.compiled(dy.dtype).depthwise
        kernel(dy, w, NO_BIAS[dy.dtype], dx, geometry(problem), True, False, threads_for(problem.work))
    return dx


def backward_weight(dy: np.ndarray, x: np.ndarray, problem: Problem) -> np.ndarray:
    """dw."""
    dw = memory.empty(problem.w, x.dtype)
    if x.size:
        kernel = kernels.compiled(x.dtype).depthwise_backward_weight
        kernel(dy, x, dw, geometry(problem), threads_for(problem.work))
    else:
        dw.fill(0)
    return dw
