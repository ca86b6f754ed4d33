"""The reference of `kernels/reference`, in float64 inside: slow, and where a student reads the mathematics."""

import numpy as np

from ...kernels import reference
from ..pointwise import relu as rectified
from .calls import Backward, Forward
from .problem import Machine, Problem


def refuses(problem: Problem) -> str | None:
    """It computes everything."""
    return None


def cost(problem: Problem, machine: Machine) -> float:
    """Microseconds on one thread: never the cheapest."""
    return 1000 + 1e-2 * problem.work


def forward(problem: Problem, relu: bool) -> Forward:
    """y, or max(y, 0)."""

    def run(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        y = reference.conv_forward(x, w, bias, problem.win, problem.groups).astype(x.dtype, order="C")
        return rectified(y) if relu else y

    return run


def backward_input(problem: Problem) -> Backward:
    """dx."""
    of = problem.x, problem.win, problem.groups
    return lambda dy, w: reference.conv_backward_input(dy, w, *of).astype(dy.dtype, order="C")


def backward_weight(problem: Problem) -> Backward:
    """dw."""
    of = problem.w, problem.win, problem.groups
    return lambda dy, x: reference.conv_backward_weight(dy, x, *of)[0].astype(x.dtype, order="C")
