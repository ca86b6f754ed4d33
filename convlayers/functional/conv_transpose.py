"""Transposed convolution as functions of arrays: a convolution whose input gradient is the forward pass."""

from typing import Unpack

import numpy as np

from ..shapes import IntOrSequence, Padding
from ._arrays import NO_BIAS, as_array, check_gradient
from .algorithms.problem import FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT
from .batchnorm import scale_shift
from .conv import ConvOptions, as_bias, as_shape, bias_gradient
from .plan import plan_conv
from .pointwise import relu as rectified

_NAME = "conv_transpose2d"


class ConvTransposeOptions(ConvOptions, total=False):
    """The keyword arguments of `conv_transpose2d`, with its defaults."""

    output_padding: IntOrSequence


def conv_transpose2d(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    stride: IntOrSequence = 1,
    padding: Padding = 0,
    output_padding: IntOrSequence = 0,
    dilation: IntOrSequence = 1,
    groups: int = 1,
    algorithm: str = "auto",
    relu: bool = False,
) -> np.ndarray:
    """As ONNX `ConvTranspose`: `y[n,m,h,w] = b[m] + sum x[n,c,p,q] w[c,m,r,s]` over `h = p s + r d - pad` and w alike.

    x `(N, C, P, Q)`, w `(C, M/groups, R, S)`, b `(M,)`; returns `(N, M, H, W)`, of the size that `shapes.transposed_window`
    gives. `algorithm` and `relu` as in `conv2d`.
    """
    x = as_array(x, f"{_NAME}: x", 4)
    w = as_array(w, f"{_NAME}: w", 4, x.dtype)
    plan = plan_conv(
        INPUT_GRADIENT, x.shape, w.shape, x.dtype.name, stride=stride, padding=padding, output_padding=output_padding,
        dilation=dilation, groups=groups, algorithm=algorithm,
    )  # fmt: skip
    filters = plan.problem.x[1]
    bias = as_bias(b, _NAME, filters, x.dtype)
    y = plan.run.backward_input(x, w, plan.problem)
    if bias is not None:
        return scale_shift(y, np.ones(filters, x.dtype), bias, relu=relu)
    return rectified(y) if relu else y


def conv_transpose2d_backward_input(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], **options: Unpack[ConvTransposeOptions]
) -> np.ndarray:
    """The gradient with respect to an input of shape `x_shape`, `dx = conv2d(dy, w)`; dy `(N, M, H, W)`."""
    dy = as_array(dy, f"{_NAME}: dy", 4)
    w = as_array(w, f"{_NAME}: w", 4, dy.dtype)
    options.setdefault("output_padding", 0)
    shape = as_shape(x_shape, f"{_NAME}: x_shape", 4)
    plan = plan_conv(FORWARD, shape, w.shape, dy.dtype.name, **options)
    return plan.run.forward(check_gradient(dy, plan.problem.x, _NAME, dy.dtype), w, None, plan.problem, False)


def conv_transpose2d_backward_weight(
    dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], *, bias: bool = True, **options: Unpack[ConvTransposeOptions]
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `conv_transpose2d` with respect to weights of shape `w_shape` and to the bias: `(dw, db)`.

    `dw[c,m,r,s] = sum x[n,c,p,q] dy[n,m,p s + r d - pad, ...]`; without `bias`, db is empty.
    """
    x = as_array(x, f"{_NAME}: x", 4)
    options.setdefault("output_padding", 0)
    shape = as_shape(w_shape, f"{_NAME}: w_shape", 4)
    plan = plan_conv(WEIGHT_GRADIENT, x.shape, shape, x.dtype.name, **options)
    dy = check_gradient(dy, plan.problem.x, _NAME, x.dtype)
    return plan.run.backward_weight(x, dy, plan.problem), bias_gradient(dy) if bias else NO_BIAS[x.dtype]


def conv_transpose2d_backward(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, **options: Unpack[ConvTransposeOptions]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All gradients of `conv_transpose2d`: `(dx, dw, db)`, in the shapes of x, w and the bias."""
    x = as_array(x, f"{_NAME}: x", 4)
    w = as_array(w, f"{_NAME}: w", 4, x.dtype)
    dw, db = conv_transpose2d_backward_weight(dy, x, w.shape, **options)
    return conv_transpose2d_backward_input(as_array(dy, f"{_NAME}: dy", 4, x.dtype), w, x.shape, **options), dw, db
