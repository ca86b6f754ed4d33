"""The gradient of a convolution's bias: by itself, or with that of the weights."""

from collections.abc import Callable
from math import prod

import numpy as np

from .. import kernels
from ..kernels import memory, threads_over
from .algorithms.calls import BackwardBoth
from .plan import Plan


def bias_gradient(dy: np.ndarray) -> np.ndarray:
    """The sums over all axes but the channels."""
    return _bound_bias_gradient(dy.shape, dy.dtype)(dy)


def _bound_bias_gradient(shape: tuple[int, ...], dtype: np.dtype) -> Callable[[np.ndarray], np.ndarray]:
    kernel, planes = kernels.compiled(dtype).channel_sums, (*shape[:2], prod(shape[2:]))
    threads = threads_over(prod(shape))

    def bound(dy: np.ndarray) -> np.ndarray:
        db = memory.empty(planes[1:2], dtype)
        if dy.size:
            kernel(dy.reshape(planes), db, threads)
        else:
            kernels.run(np.copyto, db, 0)
        return db

    return bound


def both_gradients(plan: Plan) -> BackwardBoth:
    """What gives dw and db of dy and x, db from what the algorithm reads of dy where it does so."""
    both_of = getattr(plan.run, "backward_both", None)
    both: BackwardBoth | None = both_of(plan.problem) if both_of is not None else None
    if both is not None:
        return both
    run, sums = plan.run.backward_weight(plan.problem), _bound_bias_gradient(plan.problem.y, plan.problem.type)
    return lambda dy, x: (run(dy, x), sums(dy))
