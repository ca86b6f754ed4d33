"""Checks that several layers share."""

from ..errors import ConfigError, ShapeError
from ..layer import Shape


def image_shape(shape: Shape) -> Shape:
    """`shape` if it is that of an image, `(C, H, W)`."""
    if len(shape) != 3:
        raise ShapeError(f"takes images (C, H, W); got a sample of shape {tuple(shape)}")
    return shape


def probability(value: float, name: str) -> float:
    """`value` if it lies in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ConfigError(f"{name} must be at least 0 and less than 1; got {value!r}")
    return value
