"""Convolution along one, two and three axes as functions of arrays."""

from collections.abc import Sequence
from typing import TypedDict, Unpack

import numpy as np

from .. import kernels
from ..errors import ShapeError
from ..kernels import memory
from ..shapes import IntOrSequence, Padding
from ._arrays import DTYPE_NAMES, NO_BIAS, as_array, check_gradient, threads_for
from .algorithms.problem import FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT
from .plan import plan_conv


class ConvOptions(TypedDict, total=False):
    """The keyword arguments of a convolution, with the defaults of `conv2d`."""

    stride: IntOrSequence
    padding: Padding
    dilation: IntOrSequence
    groups: int
    algorithm: str


def as_bias(b: np.ndarray | None, name: str, filters: int, dtype: np.dtype) -> np.ndarray | None:
    """`b`, if there is one, as an array of one value a filter."""
    bias = None if b is None else as_array(b, f"{name}: b", 1, dtype)
    if bias is not None and bias.shape != (filters,):
        raise ShapeError(f"{name}: b must have shape ({filters},), one value a filter; got {bias.shape}")
    return bias


def as_shape(shape: Sequence[int], name: str, ndim: int) -> tuple[int, ...]:
    """`shape` as a tuple of `ndim` sizes."""
    if len(shape) != ndim:
        raise ShapeError(f"{name} must have {ndim} axes; got {tuple(shape)}")
    return tuple(shape)


def bias_gradient(dy: np.ndarray) -> np.ndarray:
    """The sums over all axes but the channels."""
    db = memory.empty(dy.shape[1:2], dy.dtype)
    if dy.size:
        planes = dy.reshape(*dy.shape[:2], -1)
        kernels.compiled(dy.dtype).channel_sums(planes, db, threads_for(dy.size))
    else:
        db.fill(0)
    return db


# Along `rank` axes.


def _forward(
    rank: int, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, relu: bool, **options: Unpack[ConvOptions]
) -> np.ndarray:
    name = f"conv{rank}d"
    x = as_array(x, f"{name}: x", rank + 2)
    w = as_array(w, f"{name}: w", rank + 2, x.dtype)
    plan = plan_conv(FORWARD, x.shape, w.shape, DTYPE_NAMES[x.dtype], **options)
    return plan.run.forward(x, w, as_bias(b, name, w.shape[0], x.dtype), plan.problem, relu)


def _backward_input(
    rank: int, dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], **options: Unpack[ConvOptions]
) -> np.ndarray:
    name = f"conv{rank}d"
    dy = as_array(dy, f"{name}: dy", rank + 2)
    w = as_array(w, f"{name}: w", rank + 2, dy.dtype)
    shape = as_shape(x_shape, f"{name}: x_shape", rank + 2)
    plan = plan_conv(INPUT_GRADIENT, shape, w.shape, DTYPE_NAMES[dy.dtype], **options)
    return plan.run.backward_input(check_gradient(dy, plan.problem.y, name, dy.dtype), w, plan.problem)


def _backward_weight(
    rank: int, dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], bias: bool, **options: Unpack[ConvOptions]
) -> tuple[np.ndarray, np.ndarray]:
    name = f"conv{rank}d"
    x = as_array(x, f"{name}: x", rank + 2)
    shape = as_shape(w_shape, f"{name}: w_shape", rank + 2)
    plan = plan_conv(WEIGHT_GRADIENT, x.shape, shape, DTYPE_NAMES[x.dtype], **options)
    dy = check_gradient(dy, plan.problem.y, name, x.dtype)
    return plan.run.backward_weight(dy, x, plan.problem), bias_gradient(dy) if bias else NO_BIAS[x.dtype]


def _backward(
    rank: int, dy: np.ndarray, x: np.ndarray, w: np.ndarray, **options: Unpack[ConvOptions]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    name = f"conv{rank}d"
    x = as_array(x, f"{name}: x", rank + 2)
    w = as_array(w, f"{name}: w", rank + 2, x.dtype)
    dw, db = _backward_weight(rank, dy, x, w.shape, True, **options)
    return _backward_input(rank, as_array(dy, f"{name}: dy", rank + 2, x.dtype), w, x.shape, **options), dw, db


# The public functions, in the order of the ranks; what is said of `conv2d` is meant for all.


def conv1d(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    stride: IntOrSequence = 1,
    padding: Padding = 0,
    dilation: IntOrSequence = 1,
    groups: int = 1,
    algorithm: str = "auto",
    relu: bool = False,
) -> np.ndarray:
    """`y[n,m,p] = b[m] + sum x[n,c,p s + r d - pad] w[m,c,r]`; x `(N, C, L)`, w `(M, C/groups, K)`; returns `(N, M, P)`.

    See `conv2d`. Long kernels, as in audio, are where `"fft"` pays.
    """
    return _forward(
        1, x, w, b, relu, stride=stride, padding=padding, dilation=dilation, groups=groups, algorithm=algorithm
    )  # fmt: skip


def conv1d_backward_input(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], **options: Unpack[ConvOptions]
) -> np.ndarray:
    """The gradient of `conv1d` with respect to an input of shape `x_shape`; dy `(N, M, P)`."""
    return _backward_input(1, dy, w, x_shape, **options)


def conv1d_backward_weight(
    dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], *, bias: bool = True, **options: Unpack[ConvOptions]
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `conv1d` with respect to weights of shape `w_shape` and to the bias: `(dw, db)`."""
    return _backward_weight(1, dy, x, w_shape, bias, **options)


def conv1d_backward(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, **options: Unpack[ConvOptions]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All gradients of `conv1d`: `(dx, dw, db)`."""
    return _backward(1, dy, x, w, **options)


def conv2d(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    stride: IntOrSequence = 1,
    padding: Padding = 0,
    dilation: IntOrSequence = 1,
    groups: int = 1,
    algorithm: str = "auto",
    relu: bool = False,
) -> np.ndarray:
    """2-d cross-correlation, as in ONNX `Conv`: `y[n,m,p,q] = b[m] + sum x[n,c,p s + r d - pad, ...] w[m,c,r,s]`.

    x `(N, C, H, W)`, w `(M, C/groups, R, S)`, b `(M,)`; returns `(N, M, P, Q)`. `algorithm`: `"auto"`, which takes the
    cheapest by a cost model (`explain_conv2d` tells), `"direct"` (the definition, compiled), `"winograd"` (3x3 kernels at
    stride 1; a value that is not finite spreads over its tile), `"fft"` (for large kernels; it spreads over its image) or
    `"einsum"` (the reference, in float64 inside). With `relu`, `max(y, 0)`, in the same pass.
    """
    return _forward(
        2, x, w, b, relu, stride=stride, padding=padding, dilation=dilation, groups=groups, algorithm=algorithm
    )  # fmt: skip


def conv2d_backward_input(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], **options: Unpack[ConvOptions]
) -> np.ndarray:
    """The gradient of `conv2d` with respect to an input of shape `x_shape`; dy `(N, M, P, Q)`."""
    return _backward_input(2, dy, w, x_shape, **options)


def conv2d_backward_weight(
    dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], *, bias: bool = True, **options: Unpack[ConvOptions]
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `conv2d` with respect to weights of shape `w_shape` and to the bias: `(dw, db)`.

    Without `bias`, db is empty.
    """
    return _backward_weight(2, dy, x, w_shape, bias, **options)


def conv2d_backward(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, **options: Unpack[ConvOptions]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All gradients of `conv2d`: `(dx, dw, db)`, in the shapes of x, w and the bias."""
    return _backward(2, dy, x, w, **options)


def conv3d(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    stride: IntOrSequence = 1,
    padding: Padding = 0,
    dilation: IntOrSequence = 1,
    groups: int = 1,
    algorithm: str = "auto",
    relu: bool = False,
) -> np.ndarray:
    """`y[n,m,o,p,q] = b[m] + sum x[n,c,o s + t d - pad, ...] w[m,c,t,r,s]`.

    x `(N, C, D, H, W)`, w `(M, C/groups, T, R, S)`; returns `(N, M, O, P, Q)`. See `conv2d`: an algorithm is that of the last
    two axes, so `"winograd"` computes `(T, 3, 3)` kernels.
    """
    return _forward(
        3, x, w, b, relu, stride=stride, padding=padding, dilation=dilation, groups=groups, algorithm=algorithm
    )  # fmt: skip


def conv3d_backward_input(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], **options: Unpack[ConvOptions]
) -> np.ndarray:
    """The gradient of `conv3d` with respect to an input of shape `x_shape`; dy `(N, M, O, P, Q)`."""
    return _backward_input(3, dy, w, x_shape, **options)


def conv3d_backward_weight(
    dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], *, bias: bool = True, **options: Unpack[ConvOptions]
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `conv3d` with respect to weights of shape `w_shape` and to the bias: `(dw, db)`."""
    return _backward_weight(3, dy, x, w_shape, bias, **options)


def conv3d_backward(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, **options: Unpack[ConvOptions]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All gradients of `conv3d`: `(dx, dw, db)`."""
    return _backward(3, dy, x, w, **options)
