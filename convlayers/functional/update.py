"""Steps of optimizers as functions of arrays, in place; the rules are written in `convlayers.trainer.optimizers`.

Each takes a list with a tuple for each parameter: the parameter, its gradient and its arrays of state, all of them flat,
C-contiguous and of one dtype and one size. All but the gradient are updated. None for a state goes without it.
"""

import numpy as np

from .. import kernels

Parameters = list[tuple[np.ndarray, np.ndarray, *tuple[np.ndarray | None, ...]]]


def sgd(parameters: Parameters, *, lr: float, momentum: float, nesterov: bool, weight_decay: float) -> None:
    """State: the velocity, for momentum."""
    if parameters:
        kernel = kernels.compiled(parameters[0][0].dtype).sgd
        kernel(parameters, lr, momentum, nesterov, weight_decay, kernels.get_num_threads())


def adam(
    parameters: Parameters, *, rate: float, betas: tuple[float, float], eps: float, weight_decay: float, shrink: float
) -> None:
    """State: the mean of the gradients and that of their squares.

    `rate` and `eps` with the corrections for the step's number; the parameter is first multiplied by `shrink`.
    """
    if parameters:
        kernel = kernels.compiled(parameters[0][0].dtype).adam
        kernel(parameters, rate, *betas, eps, weight_decay, shrink, kernels.get_num_threads())


def rmsprop(
    parameters: Parameters, *, lr: float, alpha: float, eps: float, weight_decay: float, centered: bool, momentum: float
) -> None:
    """State: the mean of the gradients' squares; that of the gradients, for `centered`; the velocity, for momentum."""
    if parameters:
        kernel = kernels.compiled(parameters[0][0].dtype).rmsprop
        kernel(parameters, lr, alpha, eps, weight_decay, centered, momentum, kernels.get_num_threads())
