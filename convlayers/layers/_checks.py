"""Checks that several layers share."""

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np

from ..errors import ArrayTypeError, ConfigError, ShapeError
from ..layer import Shape

_SAMPLES = {0: "vectors (C,)", 1: "signals (C, L)", 2: "images (C, H, W)", 3: "volumes (C, D, H, W)"}


def sample_of_rank(shape: Shape, *ranks: int) -> Shape:
    """`shape` if it is that of a sample with channels and as many spatial axes as one of `ranks` says."""
    if len(shape) - 1 not in ranks:
        raise ShapeError(f"takes {' or '.join(_SAMPLES[rank] for rank in ranks)}; got a sample of shape {tuple(shape)}")
    return shape


def image_shape(shape: Shape) -> Shape:
    """`shape` if it is that of an image, `(C, H, W)`."""
    return sample_of_rank(shape, 2)


def channels_and_size(shape: Shape, rank: int | None = None) -> tuple[int, Shape]:
    """The two parts of `shape` if it is that of channels, `(C, *size)`; of `rank` spatial axes, by default one or more."""
    if len(shape) < 2 or (rank is not None and len(shape) != rank + 1):
        layout = {None: "(C, ...) with a spatial axis or more", 1: "(C, L)", 2: "(C, H, W)", 3: "(C, D, H, W)"}[rank]
        raise ShapeError(f"takes samples {layout}; got a sample of shape {tuple(shape)}")
    return shape[0], tuple(shape[1:])


def axes_of(value: Any) -> int:
    """For how many axes `value` holds one entry each; 2 where a single one serves every axis."""
    return max(len(value), 1) if isinstance(value, list | tuple) else 2


def several(shapes: Sequence[Shape], count: int | None = None) -> list[Shape]:
    """A join's `shapes` if they are as many as `count`, by default two or more."""
    if len(shapes) != count if count else len(shapes) < 2:
        raise ShapeError(f"takes {'two inputs or more' if count is None else f'{count} inputs'}; got {len(shapes)}")
    return [tuple(shape) for shape in shapes]


def batch_axis(axis: int) -> int:
    """`axis` if it is one of a batch and not the first."""
    if not isinstance(axis, int) or isinstance(axis, bool) or axis == 0:
        raise ConfigError(f"axis is an int other than 0, the batch; got {axis!r}")
    return axis


def sample_axis(axis: int, shape: Shape) -> int:
    """The axis of a sample of `shape` that is `axis` of a batch of them."""
    if not -len(shape) <= axis <= len(shape):
        raise ShapeError(f"axis {axis} is outside a batch of samples of shape {tuple(shape)}")
    return axis - 1 if axis > 0 else axis + len(shape)


def axes_behind_batch(axes: Sequence[int]) -> Sequence[int]:
    """`axes` if they are axes of a batch, counted from 1, each once."""
    return integers(axes, "axes", "a list of axes, each once, counted from 1; 0 is the batch", _are_axes)


def _are_axes(axes: Sequence[int]) -> bool:
    return min(axes) > 0 and len(set(axes)) == len(axes)


def sample_axes(axes: Sequence[int], shape: Shape) -> list[int]:
    """The axes of a sample of `shape` that are `axes` of a batch of them."""
    return [sample_axis(int(axis), shape) for axis in axes]


def choice(value: str, name: str, choices: Iterable[str]) -> str:
    """`value` if it is one of `choices`."""
    if value not in (known := tuple(choices)):
        raise ConfigError(f"{name} is one of {', '.join(known)}; got {value!r}")
    return value


def number(value: float, name: str, rule: str, fits: Callable[[float], bool]) -> float:
    """`value` if it is a real number that fits; `rule` says in words what does."""
    if isinstance(value, bool) or not isinstance(value, Real) or not fits(float(value)):
        raise ConfigError(f"{name} must be {rule}; got {value!r}")
    return value


def finite(value: float, name: str) -> float:
    """`value` if it is a finite real number."""
    return number(value, name, "a finite number", math.isfinite)


def integers(value: Sequence[int], name: str, rule: str, fits: Callable[[Sequence[int]], bool]) -> Sequence[int]:
    """`value` if it is a list of integers, one or more, that fits; `rule` says in words what does."""
    listed = isinstance(value, list | tuple) and all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in value)
    if not listed or not value or not fits(value):
        raise ConfigError(f"{name} must be {rule}; got {value!r}")
    return value


def numbers(value: Sequence[float], name: str, rule: str, fits: Callable[[float], bool]) -> Sequence[float]:
    """`value` if it is a list of real numbers, one or more, each of which fits; `rule` says in words what does."""
    if not isinstance(value, list | tuple) or not value:
        raise ConfigError(f"{name} must be {rule}; got {value!r}")
    for entry in value:
        number(entry, f"an entry of {name}", f"one of {rule}", fits)
    return value


def switch(value: bool, name: str) -> bool:
    """`value` if it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ArrayTypeError(f"{name} is True or False; got {value!r}")
    return value


def probability(value: float, name: str) -> float:
    """`value` if it lies in [0, 1)."""
    return number(value, name, "at least 0 and less than 1", lambda v: 0 <= v < 1)
