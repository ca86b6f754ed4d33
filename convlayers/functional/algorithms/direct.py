"""The sum as it is defined, on the register tile (ext/conv.pxi, ext/conv_weight.pxi)."""

import numpy as np

from ... import kernels
from ...kernels import memory
from .._arrays import NO_BIAS, geometry, threads_for
from .problem import Machine, Problem


def refuses(problem: Problem) -> str | None:
    """It computes everything."""
    return None


def cost(problem: Problem, machine: Machine) -> float:
    """Microseconds on one thread."""
    return 2e-3 * problem.work / (0.85 * machine.gflops_of(problem.dtype))


def forward(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, problem: Problem) -> np.ndarray:
    """y."""
    y = memory.empty(problem.y, x.dtype)
    if y.size:
        kernel = kernels.compiled(x.dtype).conv2d_forward
        no_bias = NO_BIAS[x.dtype]
        kernel(x, w, no_bias if bias is None else bias, y, *geometry(problem.win), problem.groups, threads_for(problem.work))
    return y


def backward_input(dy: np.ndarray, w: np.ndarray, problem: Problem) -> np.ndarray:
    """dx."""
    dx = memory.empty(problem.x, dy.dtype)
    if dx.size:
        kernel = kernels.compiled(dy.dtype).conv2d_backward_input
        kernel(dy, w, dx, *geometry(problem.win), problem.groups, threads_for(problem.work))
    return dx


def backward_weight(dy: np.ndarray, x: np.ndarray, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """dw and db."""
    dw, db = memory.empty(problem.w, x.dtype), memory.empty(problem.w[:1], x.dtype)
    if x.size:
        kernel = kernels.compiled(x.dtype).conv2d_backward_weight
        kernel(dy, x, dw, db, *geometry(problem.win), problem.groups, threads_for(problem.work))
    else:
        dw.fill(0)
        db[...] = dy.sum(axis=(0, 2, 3))
    return dw, db
