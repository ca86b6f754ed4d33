"""What the sides share: the models, their inputs, and how results are compared."""

import numpy as np

import convlayers as cl
from convlayers.tolerance import largest_error, tolerance

from .cases import Infer, Train


def draw(seed: int, *shape: int) -> np.ndarray:
    """Normal values, the same in every process."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def batch_of(case: Train | Infer, model: cl.Model) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels for a model."""
    return draw(0, case.batch, *model.input_shape), np.arange(case.batch) % model.output_shape[0]


def built(case: Train | Infer) -> cl.Model:
    """The model of a case, the same in every process, with running statistics that are not those of a fresh one."""
    model = getattr(cl.models, case.model)()
    model.forward(draw(1, 8, *model.input_shape), step=0)
    return model


def agree(actual: np.ndarray, expected: np.ndarray, length: int, what: str) -> None:
    """End the run unless `actual` lies within the rounding of sums of `length` products."""
    error, bound = largest_error(actual, expected), tolerance(np.float32, length)
    if not error <= bound:
        raise SystemExit(f"{what}: differs by {error:.2g}, more than {bound:.2g}; nothing is timed")
