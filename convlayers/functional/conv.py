"""Convolution as functions of arrays."""

from typing import TypedDict, Unpack

import numpy as np

from .. import kernels
from ..errors import ShapeError
from ..kernels import memory
from ..shapes import IntOrSequence, Padding
from ._arrays import NO_BIAS, as_array, check_gradient, threads_for
from .algorithms.problem import FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT
from .plan import plan_conv2d


class ConvOptions(TypedDict, total=False):
    """The keyword arguments of `conv2d`, with its defaults."""

    stride: IntOrSequence
    padding: Padding
    dilation: IntOrSequence
    groups: int
    algorithm: str


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
    x = as_array(x, "conv2d: x", 4)
    w = as_array(w, "conv2d: w", 4, x.dtype)
    plan = plan_conv2d(
        FORWARD, x.shape, w.shape, x.dtype.name,
        stride=stride, padding=padding, dilation=dilation, groups=groups, algorithm=algorithm,
    )  # fmt: skip
    bias = None if b is None else as_array(b, "conv2d: b", 1, x.dtype)
    if bias is not None and bias.shape != w.shape[:1]:
        raise ShapeError(f"conv2d: b must have shape ({w.shape[0]},), one value a filter; got {bias.shape}")
    return plan.run.forward(x, w, bias, plan.problem, relu)


def conv2d_backward_input(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], **options: Unpack[ConvOptions]
) -> np.ndarray:
    """The gradient with respect to an input of shape `x_shape`; dy `(N, M, P, Q)`."""
    dy = as_array(dy, "conv2d: dy", 4)
    w = as_array(w, "conv2d: w", 4, dy.dtype)
    plan = plan_conv2d(INPUT_GRADIENT, tuple(x_shape), w.shape, dy.dtype.name, **options)
    return plan.run.backward_input(check_gradient(dy, plan.problem.y, "conv2d", dy.dtype), w, plan.problem)


def _bias_gradient(dy: np.ndarray) -> np.ndarray:
    db = memory.empty(dy.shape[1:2], dy.dtype)
    if dy.size:
        planes = dy.reshape(*dy.shape[:2], -1)
        kernels.compiled(dy.dtype).channel_sums(planes, db, threads_for(dy.size))
    else:
        db.fill(0)
    return db


def conv2d_backward_weight(
    dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], *, bias: bool = True, **options: Unpack[ConvOptions]
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients with respect to weights of shape `w_shape` and to the bias: `(dw, db)`; db is empty without `bias`."""
    x = as_array(x, "conv2d: x", 4)
    plan = plan_conv2d(WEIGHT_GRADIENT, x.shape, tuple(w_shape), x.dtype.name, **options)
    dy = check_gradient(dy, plan.problem.y, "conv2d", x.dtype)
    return plan.run.backward_weight(dy, x, plan.problem), _bias_gradient(dy) if bias else NO_BIAS[x.dtype]


def conv2d_backward(
    dy: np.ndarray,
    x: np.ndarray,
    w: np.ndarray,
    *,
    stride: IntOrSequence = 1,
    padding: Padding = 0,
    dilation: IntOrSequence = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All gradients of `conv2d`: `(dx, dw, db)`, in the shapes of x, w and the bias."""
    x = as_array(x, "conv2d: x", 4)
    w = as_array(w, "conv2d: w", 4, x.dtype)
    how = ConvOptions(stride=stride, padding=padding, dilation=dilation, groups=groups, algorithm=algorithm)
    dw, db = conv2d_backward_weight(dy, x, w.shape, **how)
    return conv2d_backward_input(as_array(dy, "conv2d: dy", 4, x.dtype), w, x.shape, **how), dw, db
