"""Transposed convolution along one, two and three axes: the forward pass is a convolution's gradient of its input."""

from typing import Unpack

import numpy as np

from .. import kernels
from ..shapes import IntOrSequence, Padding
from ._arrays import DTYPE_NAMES, NO_BIAS, as_array, check_gradient
from ._bias import bias_gradient
from .algorithms.problem import FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT
from .batchnorm import scale_shift
from .conv import ConvOptions, as_bias, as_shape, names_by_rank
from .plan import Options, planned
from .pointwise import relu as rectified


class ConvTransposeOptions(ConvOptions, total=False):
    """The keyword arguments of `conv_transpose2d`, with its defaults."""

    output_padding: IntOrSequence


_NAMES = names_by_rank("conv_transpose")


def _resolved(*, output_padding: IntOrSequence = 0, **options: Unpack[ConvOptions]) -> Options:
    return Options(output_padding=output_padding, **options)


# Along `rank` axes: what the layers call, with the options that they hold.


def forward(rank: int, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, relu: bool, options: Options) -> np.ndarray:
    names = _NAMES[rank]
    x = as_array(x, names.x, rank + 2)
    w = as_array(w, names.w, rank + 2, x.dtype)
    plan = planned(INPUT_GRADIENT, x.shape, w.shape, DTYPE_NAMES[x.dtype], options)
    filters = plan.problem.x[1]
    bias = as_bias(b, names, filters, x.dtype)
    y = plan.run.backward_input(plan.problem)(x, w)
    if bias is not None:
        return scale_shift(y, kernels.constant(np.ones(filters, x.dtype)), bias, relu=relu)
    return rectified(y) if relu else y


def backward_input(rank: int, dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], options: Options) -> np.ndarray:
    names = _NAMES[rank]
    dy = as_array(dy, names.dy, rank + 2)
    w = as_array(w, names.w, rank + 2, dy.dtype)
    plan = planned(FORWARD, as_shape(x_shape, names.x_shape, rank + 2), w.shape, DTYPE_NAMES[dy.dtype], options)
    return plan.run.forward(plan.problem, False)(check_gradient(dy, plan.problem.x, names.function, dy.dtype), w, None)


def backward_weight(
    rank: int, dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], bias: bool, options: Options
) -> tuple[np.ndarray, np.ndarray]:
    names = _NAMES[rank]
    x = as_array(x, names.x, rank + 2)
    plan = planned(WEIGHT_GRADIENT, x.shape, as_shape(w_shape, names.w_shape, rank + 2), DTYPE_NAMES[x.dtype], options)
    dy = check_gradient(dy, plan.problem.x, names.function, x.dtype)
    return plan.run.backward_weight(plan.problem)(x, dy), bias_gradient(dy) if bias else NO_BIAS[x.dtype]


def _backward(
    rank: int, dy: np.ndarray, x: np.ndarray, w: np.ndarray, options: Options
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    names = _NAMES[rank]
    x = as_array(x, names.x, rank + 2)
    w = as_array(w, names.w, rank + 2, x.dtype)
    dw, db = backward_weight(rank, dy, x, w.shape, True, options)
    return backward_input(rank, as_array(dy, names.dy, rank + 2, x.dtype), w, x.shape, options), dw, db


# The public functions, in the order of the ranks; what is said of `conv_transpose2d` is meant for all.


def conv_transpose1d(
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
    """`y[n,m,h] = b[m] + sum x[n,c,p] w[c,m,r]` over `h = p s + r d - pad`; x `(N, C, P)`, w `(C, M/groups, R)`.

    Returns `(N, M, H)`. See `conv_transpose2d`.
    """
    return forward(1, x, w, b, relu, Options(stride, padding, dilation, groups, output_padding, algorithm))


def conv_transpose1d_backward_input(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], **options: Unpack[ConvTransposeOptions]
) -> np.ndarray:
    """The gradient of `conv_transpose1d` with respect to an input of shape `x_shape`; dy `(N, M, H)`."""
    return backward_input(1, dy, w, x_shape, _resolved(**options))


def conv_transpose1d_backward_weight(
    dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], *, bias: bool = True, **options: Unpack[ConvTransposeOptions]
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `conv_transpose1d` with respect to weights of shape `w_shape` and to the bias: `(dw, db)`."""
    return backward_weight(1, dy, x, w_shape, bias, _resolved(**options))


def conv_transpose1d_backward(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, **options: Unpack[ConvTransposeOptions]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All gradients of `conv_transpose1d`: `(dx, dw, db)`."""
    return _backward(1, dy, x, w, _resolved(**options))


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
    return forward(2, x, w, b, relu, Options(stride, padding, dilation, groups, output_padding, algorithm))


def conv_transpose2d_backward_input(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], **options: Unpack[ConvTransposeOptions]
) -> np.ndarray:
    """The gradient with respect to an input of shape `x_shape`, `dx = conv2d(dy, w)`; dy `(N, M, H, W)`."""
    return backward_input(2, dy, w, x_shape, _resolved(**options))


def conv_transpose2d_backward_weight(
    dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], *, bias: bool = True, **options: Unpack[ConvTransposeOptions]
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `conv_transpose2d` with respect to weights of shape `w_shape` and to the bias: `(dw, db)`.

    `dw[c,m,r,s] = sum x[n,c,p,q] dy[n,m,p s + r d - pad, ...]`; without `bias`, db is empty.
    """
    return backward_weight(2, dy, x, w_shape, bias, _resolved(**options))


def conv_transpose2d_backward(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, **options: Unpack[ConvTransposeOptions]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All gradients of `conv_transpose2d`: `(dx, dw, db)`, in the shapes of x, w and the bias."""
    return _backward(2, dy, x, w, _resolved(**options))


def conv_transpose3d(
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
    """`y[n,m,g,h,w] = b[m] + sum x[n,c,o,p,q] w[c,m,t,r,s]` over `g = o s + t d - pad`, and h and w alike.

    x `(N, C, O, P, Q)`, w `(C, M/groups, T, R, S)`; returns `(N, M, G, H, W)`. See `conv_transpose2d`.
    """
    return forward(3, x, w, b, relu, Options(stride, padding, dilation, groups, output_padding, algorithm))


def conv_transpose3d_backward_input(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], **options: Unpack[ConvTransposeOptions]
) -> np.ndarray:
    """The gradient of `conv_transpose3d` with respect to an input of shape `x_shape`; dy `(N, M, G, H, W)`."""
    return backward_input(3, dy, w, x_shape, _resolved(**options))


def conv_transpose3d_backward_weight(
    dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], *, bias: bool = True, **options: Unpack[ConvTransposeOptions]
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `conv_transpose3d` with respect to weights of shape `w_shape` and to the bias: `(dw, db)`."""
    return backward_weight(3, dy, x, w_shape, bias, _resolved(**options))


def conv_transpose3d_backward(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, **options: Unpack[ConvTransposeOptions]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All gradients of `conv_transpose3d`: `(dx, dw, db)`."""
    return _backward(3, dy, x, w, _resolved(**options))
