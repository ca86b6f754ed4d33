"""The direct algorithm where every channel has filters of its own (ext/depthwise.pxi, ext/depthwise_weight.pxi)."""

from ... import kernels
from ...kernels import threads_for
from .calls import Backward, Forward, FusedForward, ceiling, forward_call, input_call, scaled_call, weight_call
from .problem import Problem, geometry


def forward(problem: Problem, relu: bool) -> Forward:
    """y, or max(y, 0)."""
    kernel = kernels.compiled(problem.type).depthwise
    how = geometry(problem), False, ceiling(relu), threads_for(problem.work)
    return forward_call(kernel, problem, *how, None)


def forward_fused(problem: Problem, relu: bool | float) -> FusedForward:
    """y times a scale, which goes into the filters, plus a shift."""
    kernel = kernels.compiled(problem.type).depthwise
    return scaled_call(kernel, problem, geometry(problem), False, ceiling(relu), threads_for(problem.work))


def backward_input(problem: Problem) -> Backward:
    """dx."""
    kernel = kernels.compiled(problem.type).depthwise
    return input_call(kernel, problem, geometry(problem), True, 0.0, threads_for(problem.work), None)


def backward_weight(problem: Problem) -> Backward:
    """dw."""
    kernel = kernels.compiled(problem.type).depthwise_backward_weight
    return weight_call(kernel, problem, geometry(problem), threads_for(problem.work))
