"""Checks that several layers share."""

from collections.abc import Callable
from numbers import Real

import numpy as np

from ..errors import ArrayTypeError, ConfigError, ShapeError
from ..layer import Shape

_SAMPLES = {1: "signals (C, L)", 2: "images (C, H, W)", 3: "volumes (C, D, H, W)"}


def sample_of_rank(shape: Shape, rank: int) -> Shape:
    """`shape` if it is that of a sample with channels and `rank` spatial axes."""
    if len(shape) != rank + 1:
        raise ShapeError(f"takes {_SAMPLES[rank]}; got a sample of shape {tuple(shape)}")
    return shape


def image_shape(shape: Shape) -> Shape:
    """`shape` if it is that of an image, `(C, H, W)`."""
    return sample_of_rank(shape, 2)


def number(value: float, name: str, rule: str, fits: Callable[[float], bool]) -> float:
    """`value` if it is a real number that fits; `rule` says in words what does."""
    if isinstance(value, bool) or not isinstance(value, Real) or not fits(float(value)):
        raise ConfigError(f"{name} must be {rule}; got {value!r}")
    return value


def switch(value: bool, name: str) -> bool:
    """`value` if it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ArrayTypeError(f"{name} is True or False; got {value!r}")
    return value


def probability(value: float, name: str) -> float:
    """`value` if it lies in [0, 1)."""
    return number(value, name, "at least 0 and less than 1", lambda v: 0 <= v < 1)
