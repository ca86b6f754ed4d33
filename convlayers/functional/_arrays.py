"""The door of every function: arrays checked and converted."""

import numpy as np

from ..errors import ArrayTypeError, ShapeError
from ..shapes import Window

_FLOAT32 = np.dtype(np.float32)
_FLOAT64 = np.dtype(np.float64)
DTYPE_NAMES = {_FLOAT32: "float32", _FLOAT64: "float64"}  # dtype.name is Python code of NumPy's, 5 us a call
NO_BIAS = {dtype: np.empty(0, dtype) for dtype in (_FLOAT32, _FLOAT64)}
_LAYOUTS = {2: " (N, features)", 3: " (N, C, L)", 4: " (N, C, H, W)", 5: " (N, C, D, H, W)"}


def as_array(x: object, name: str, ndim: int | None = None, dtype: np.dtype | None = None) -> np.ndarray:
    """`x` as a C-contiguous, aligned, native `float32` or `float64` array; a copy only where it must be.

    `dtype` forces one of the two; `ndim` is checked when given. Raises `ArrayTypeError` or `ShapeError`.
    """
    if type(x) is not np.ndarray or (x.dtype is not _FLOAT32 and x.dtype is not _FLOAT64):
        x = _convert(x, name)
    if dtype is not None and x.dtype is not dtype:
        x = x.astype(dtype)
    flags = x.flags
    if not (flags.c_contiguous and flags.aligned):
        x = np.array(x, order="C")
    if ndim is not None and x.ndim != ndim:
        layout = _LAYOUTS.get(ndim, "")
        raise ShapeError(f"{name} must have {ndim} axes{layout}; got shape {x.shape}")
    return x


def fits(x: object, shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether `as_array` would return `x` itself, and whether that has this shape and type; False for what is read-only."""
    return type(x) is np.ndarray and x.dtype is dtype and x.shape == shape and x.flags.carray


def _convert(x: object, name: str) -> np.ndarray:
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise ArrayTypeError(f"{name} is not a rectangular array: {error}") from error
    if array.dtype.kind not in "fiub":
        raise ArrayTypeError(f"{name} must hold real numbers; got dtype {array.dtype}")
    wide = array.dtype.kind == "f" and array.dtype.itemsize >= 8
    return np.asarray(array, _FLOAT64 if wide else _FLOAT32)


def check_gradient(dy: object, expected: tuple[int, ...], name: str, dtype: np.dtype) -> np.ndarray:
    dy = as_array(dy, f"{name}: dy", len(expected), dtype)
    if dy.shape != expected:
        raise ShapeError(f"{name}: dy must have the output's shape {expected}; got {dy.shape}")
    return dy


def window_numbers(win: Window) -> tuple[int, ...]:
    """What the kernels take of a 2-d window: strides, padding before, dilations."""
    (top, _), (left, _) = win.padding
    return (*win.stride, top, left, *win.dilation)
