"""Where the values of a resized axis come from, by the rules of ONNX `Resize`.

Output k stands at `x(k)` of the input's axis, by its `transformation`; n values become `outputs`, and `width = scale n`, which
need not be whole:

    half_pixel            (k + 1/2) / scale - 1/2
    half_pixel_symmetric  the same, moved so that the middles of both axes meet: + n/2 (1 - outputs / width)
    pytorch_half_pixel    as half_pixel, and 0 where there is one output
    align_corners         k (n - 1) / (width - 1), and 0 where width is 1
    asymmetric            k / scale
    tf_crop_and_resize    a (n - 1) + k (b - a) (n - 1) / (width - 1), from a to b of the region of interest; where width is 1,
                          (a + (b - a) / 2) (n - 1); outside of the axis there is nothing to read

The weight of value i is `f(s (i - x))`: a triangle for "linear", `f(t) = 1 - |t|`, Keys' piecewise cubic for "cubic" (1981),
with s = 1; under `antialias` and for a scale below 1, s = scale, and the weights are divided by their sum. Values before the
first are the first, and those behind the last are the last, or under `exclude_outside` they have no weight and the others
share it.

Which of two neighbours is the nearest of a place in their middle is for the rounding to say, so places are computed in float32
for "nearest", in the order of the equations, as onnxruntime does.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .resample import Taps, packed, picked

RESIZE_MODES = ("nearest", "linear", "cubic")
NEAREST_MODES = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
TRANSFORMATIONS = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
)


class Resampling(NamedTuple):
    """How to resize, whatever the size; names and values as in ONNX."""

    mode: str
    transformation: str
    nearest_mode: str
    cubic_coeff_a: float
    exclude_outside: bool
    antialias: bool


def _places(n: int, outputs: int, scale: np.floating, transformation: str, region: tuple[float, float]) -> np.ndarray:
    k, width, (start, end) = np.arange(outputs, dtype=scale.dtype), scale * scale.dtype.type(n), region
    if transformation == "asymmetric":
        return k / scale
    if transformation == "align_corners":
        return np.zeros(outputs) if width == 1 else k * (n - 1) / (width - 1)
    if transformation == "tf_crop_and_resize":
        inside = np.full(outputs, (end - start) * (n - 1) / 2) if width == 1 else k * (end - start) * (n - 1) / (width - 1)
        return start * (n - 1) + inside
    if transformation == "pytorch_half_pixel" and outputs == 1:
        return np.zeros(1)
    middle = n / 2 * (1 - outputs / width) if transformation == "half_pixel_symmetric" else 0
    return middle + (k + 0.5) / scale - 0.5


def _nearest(x: np.ndarray, rule: str) -> np.ndarray:
    rounded = {
        "round_prefer_floor": lambda: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda: np.floor(x + 0.5),
        "floor": lambda: np.floor(x),
        "ceil": lambda: np.ceil(x),
    }
    return rounded[rule]().astype(np.int64)


def _cubic(t: np.ndarray, a: float) -> np.ndarray:
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    return np.where(t <= 1, near, np.where(t < 2, ((a * t - 5 * a) * t + 8 * a) * t - 4 * a, 0))


def _weights(x: np.ndarray, n: int, scale: float, how: Resampling) -> tuple[np.ndarray, np.ndarray]:
    """The values that each output reads, some of them outside of the axis, and their weights."""
    shrink = min(scale, 1.0) if how.antialias else 1.0
    first = int(np.floor(-(2 if how.mode == "cubic" else 1) / shrink)) + 1
    index = np.floor(x).astype(np.int64)[:, None] + np.arange(first, 2 - first)
    t = shrink * (index - x[:, None])
    weight = _cubic(t, how.cubic_coeff_a) if how.mode == "cubic" else np.clip(1 - np.abs(t), 0, 1)
    if how.antialias:
        weight = weight / weight.sum(axis=1, keepdims=True)
    if how.exclude_outside:
        weight = np.where((index < 0) | (index >= n), 0, weight)
        total = weight.sum(axis=1, keepdims=True)
        weight = weight / np.where(total == 0, 1, total)
    return index, weight


@lru_cache(maxsize=256)
def resize_taps(
    n: int, outputs: int, scale: float, how: Resampling, region: tuple[float, float] = (0.0, 1.0)
) -> tuple[Taps, Taps]:
    """The map from n values to `outputs` that lie `scale` times as close, and its transpose."""
    x = _places(n, outputs, (np.float32 if how.mode == "nearest" else np.float64)(scale), how.transformation, region)
    inside = np.ones(outputs, bool) if how.transformation != "tf_crop_and_resize" else (x >= 0) & (x <= n - 1)
    if how.mode == "nearest":
        taps = picked(n, np.where(inside, np.clip(_nearest(x, how.nearest_mode), 0, n - 1), -1))
        return taps, taps.transposed()
    index, weight = _weights(x, n, scale, how)
    rows, places = np.nonzero(np.where(inside[:, None], weight, 0))
    read = np.clip(index[rows, places], 0, n - 1)
    taps = packed(n, outputs, rows, read, weight[rows, places])
    return taps, taps.transposed()
