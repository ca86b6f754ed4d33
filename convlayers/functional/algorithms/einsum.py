"""The reference of `kernels/reference`, in float64 inside: slow, and where a student reads the mathematics."""

import numpy as np

from ...kernels import reference
from ..pointwise import relu as rectified
from .problem import Machine, Problem


def refuses(problem: Problem) -> str | None:
    """It computes everything."""
    return None


def cost(problem: Problem, machine: Machine) -> float:
    """Microseconds on one thread: never the cheapest."""
    return 1000 + 1e-2 * problem.work


def forward(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, problem: Problem, relu: bool) -> np.ndarray:
    """y, or max(y, 0)."""
    y = reference.conv_forward(x, w, bias, problem.win, problem.groups).astype(x.dtype)
    return rectified(y) if relu else y


def backward_input(dy: np.ndarray, w: np.ndarray, problem: Problem) -> np.ndarray:
    """dx."""
    return reference.conv_backward_input(dy, w, problem.x, problem.win, problem.groups).astype(dy.dtype)


def backward_weight(dy: np.ndarray, x: np.ndarray, problem: Problem) -> np.ndarray:
    """dw."""
    return reference.conv_backward_weight(dy, x, problem.w, problem.win, problem.groups)[0].astype(x.dtype)
