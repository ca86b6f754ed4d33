"""The kernels as functions of arrays: checks them, allocates, calls. The only door to the compiled code.

Arrays go in as anything NumPy can read; they are converted to C-contiguous `float32`, or `float64` where the first
argument is `float64`, and never written to. Integers and half precision become `float32`; complex numbers, strings and
objects are an `ArrayTypeError`. Images are `(N, C, H, W)`.
"""

from typing import TypedDict, Unpack

import numpy as np

from . import kernels
from .errors import ArrayTypeError, ConfigError, ConvlayersError, ShapeError, located
from .kernels import memory, reference
from .shapes import IntOrSequence, Padding, Window, check_pool, conv_groups, positive, window

ALGORITHMS = ("auto", "direct", "winograd", "fft", "einsum")
_AVAILABLE = ("auto", "direct", "einsum")
_FLOAT32 = np.dtype(np.float32)
_FLOAT64 = np.dtype(np.float64)
# Multiply-adds below which waking another thread costs more than it saves: about 5 us at 100 GFLOP/s.
_SERIAL_WORK = 250_000
_POOL_WORK = 8  # a comparison or an addition of pooling takes as long as about so many multiply-adds of the register tile


def as_array(x: object, name: str, ndim: int | None = None, dtype: np.dtype | None = None) -> np.ndarray:
    """`x` as a C-contiguous, aligned, native `float32` or `float64` array; a copy only where it must be.

    `dtype` forces one of the two; `ndim` is checked when given. Raises `ArrayTypeError` or `ShapeError`.
    """
    if type(x) is not np.ndarray or (x.dtype is not _FLOAT32 and x.dtype is not _FLOAT64):
        x = _convert(x, name)
    if dtype is not None and x.dtype is not dtype:
        x = x.astype(dtype)
    if not (x.flags.c_contiguous and x.flags.aligned):
        x = np.array(x, order="C")
    if ndim is not None and x.ndim != ndim:
        layout = {4: " (N, C, H, W)", 2: " (N, features)"}.get(ndim, "")
        raise ShapeError(f"{name} must have {ndim} axes{layout}; got shape {x.shape}")
    return x


def _convert(x: object, name: str) -> np.ndarray:
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise ArrayTypeError(f"{name} is not a rectangular array: {error}") from error
    if array.dtype.kind not in "fiub":
        raise ArrayTypeError(f"{name} must hold real numbers; got dtype {array.dtype}")
    wide = array.dtype.kind == "f" and array.dtype.itemsize >= 8
    return np.asarray(array, _FLOAT64 if wide else _FLOAT32)


def threads_for(work: float) -> int:
    """The thread count for a kernel of `work` multiply-adds."""
    return kernels.get_num_threads() if work > _SERIAL_WORK else 1


def check_algorithm(algorithm: str) -> str:
    """`algorithm` if it is one that this version computes."""
    if algorithm not in ALGORITHMS:
        raise ConfigError(f"algorithm must be one of {', '.join(ALGORITHMS)}; got {algorithm!r}")
    if algorithm not in _AVAILABLE:
        raise ConfigError(f"algorithm {algorithm!r} is not part of this version; {', '.join(_AVAILABLE)} are")
    return algorithm


class ConvOptions(TypedDict, total=False):
    """The keyword arguments of `conv2d`, with its defaults."""

    stride: IntOrSequence
    padding: Padding
    dilation: IntOrSequence
    groups: int
    algorithm: str


def _conv_plan(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: IntOrSequence = 1,
    padding: Padding = 0,
    dilation: IntOrSequence = 1,
    groups: int = 1,
    algorithm: str = "auto",
) -> tuple[Window, int, bool]:
    """The window, the groups, and whether the reference is to compute."""
    try:
        positive(groups, "groups")
        if conv_groups(x_shape[1], w_shape[0], groups) != w_shape[1]:
            raise ShapeError(
                f"weight {w_shape} is for {w_shape[1] * groups} input channels in {groups} group(s); x has {x_shape[1]}"
            )
        win = window(x_shape[2:], w_shape[2:], stride=stride, dilation=dilation, padding=padding)
        return win, groups, check_algorithm(algorithm) == "einsum"
    except ConvlayersError as error:
        raise located(error, "conv2d") from None


def _geometry(win: Window) -> tuple[int, ...]:
    (top, _), (left, _) = win.padding
    return (*win.stride, top, left, *win.dilation)


def _conv_work(output: tuple[int, ...], weight: np.ndarray) -> int:
    return output[0] * output[2] * output[3] * weight.size


_NO_BIAS = {dtype: np.empty(0, dtype) for dtype in (_FLOAT32, _FLOAT64)}


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
) -> np.ndarray:
    """2-d cross-correlation, as in ONNX `Conv`: `y[n,m,p,q] = b[m] + sum x[n,c,p s + r d - pad, ...] w[m,c,r,s]`.

    x `(N, C, H, W)`, w `(M, C/groups, R, S)`, b `(M,)`; returns `(N, M, P, Q)`. `algorithm`: `"auto"`, `"direct"`
    (compiled), or `"einsum"` (the reference, in float64 inside).
    """
    x = as_array(x, "conv2d: x", 4)
    w = as_array(w, "conv2d: w", 4, x.dtype)
    win, groups, einsum = _conv_plan(x.shape, w.shape, stride, padding, dilation, groups, algorithm)
    bias = _NO_BIAS[x.dtype] if b is None else as_array(b, "conv2d: b", 1, x.dtype)
    if b is not None and bias.shape != w.shape[:1]:
        raise ShapeError(f"conv2d: b must have shape ({w.shape[0]},), one value a filter; got {bias.shape}")
    if einsum:
        return reference.conv_forward(x, w, None if b is None else bias, win, groups).astype(x.dtype)
    y = memory.empty((x.shape[0], w.shape[0], *win.output), x.dtype)
    if y.size:
        kernel = kernels.compiled(x.dtype).conv2d_forward
        kernel(x, w, bias, y, *_geometry(win), groups, threads_for(_conv_work(y.shape, w)))
    return y


def _check_gradient(dy: object, expected: tuple[int, ...], name: str, dtype: np.dtype) -> np.ndarray:
    dy = as_array(dy, f"{name}: dy", len(expected), dtype)
    if dy.shape != expected:
        raise ShapeError(f"{name}: dy must have the output's shape {expected}; got {dy.shape}")
    return dy


def conv2d_backward_input(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], **options: Unpack[ConvOptions]
) -> np.ndarray:
    """The gradient with respect to an input of shape `x_shape`; dy `(N, M, P, Q)`."""
    dy = as_array(dy, "conv2d: dy", 4)
    w = as_array(w, "conv2d: w", 4, dy.dtype)
    win, groups, einsum = _conv_plan(x_shape, w.shape, **options)
    dy = _check_gradient(dy, (x_shape[0], w.shape[0], *win.output), "conv2d", dy.dtype)
    if einsum:
        return reference.conv_backward_input(dy, w, x_shape, win, groups).astype(dy.dtype)
    dx = memory.empty(tuple(x_shape), dy.dtype)
    if dx.size:
        kernel = kernels.compiled(dy.dtype).conv2d_backward_input
        kernel(dy, w, dx, *_geometry(win), groups, threads_for(_conv_work(dy.shape, w)))
    return dx


def conv2d_backward_weight(
    dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], **options: Unpack[ConvOptions]
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients with respect to weights of shape `w_shape` and to the bias: `(dw, db)`."""
    x = as_array(x, "conv2d: x", 4)
    win, groups, einsum = _conv_plan(x.shape, tuple(w_shape), **options)
    dy = _check_gradient(dy, (x.shape[0], w_shape[0], *win.output), "conv2d", x.dtype)
    if einsum:
        dw, db = reference.conv_backward_weight(dy, x, tuple(w_shape), win, groups)
        return dw.astype(x.dtype), db.astype(x.dtype)
    dw, db = memory.empty(tuple(w_shape), x.dtype), memory.empty((w_shape[0],), x.dtype)
    if x.size:
        kernel = kernels.compiled(x.dtype).conv2d_backward_weight
        kernel(dy, x, dw, db, *_geometry(win), groups, threads_for(_conv_work(dy.shape, dw)))
    else:
        dw.fill(0)
        db[...] = dy.sum(axis=(0, 2, 3))
    return dw, db


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


def _planes(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, *x.shape[2:])


def max_pool2d(x: np.ndarray, win: Window) -> tuple[np.ndarray, np.ndarray]:
    """The maximum of each window of `win`, and the tap `r * S + s` that holds it: `(y, index)`, both `(N, C, P, Q)`.

    Padding counts as minus infinity; the first maximum in row order is taken; NaN wins.
    """
    x = as_array(x, "max_pool2d: x", 4)
    check_pool(x.shape[2:], win)
    kernel_h, kernel_w = win.kernel
    y = memory.empty((*x.shape[:2], *win.output), x.dtype)
    index = memory.empty(y.shape, np.dtype(np.uint8 if kernel_h * kernel_w <= 256 else np.intc))
    if y.size:
        kernel = kernels.compiled(x.dtype).max_pool2d_forward
        threads = threads_for(_POOL_WORK * y.size * kernel_h * kernel_w)
        kernel(_planes(x), _planes(y), _planes(index), kernel_h, kernel_w, *_geometry(win), threads)
    return y, index


def max_pool2d_backward(dy: np.ndarray, index: np.ndarray, x_shape: tuple[int, ...], win: Window) -> np.ndarray:
    """The gradient of `max_pool2d` with respect to its input of shape `x_shape`."""
    dy = as_array(dy, "max_pool2d: dy", 4)
    dy = _check_gradient(dy, (*x_shape[:2], *win.output), "max_pool2d", dy.dtype)
    if not isinstance(index, np.ndarray) or index.shape != dy.shape or index.dtype not in (np.uint8, np.intc):
        raise ShapeError(f"max_pool2d: index must be what the forward pass gave, of shape {dy.shape}")
    index = np.ascontiguousarray(index)
    dx = memory.empty(tuple(x_shape), dy.dtype)
    if dx.size:
        kernel = kernels.compiled(dy.dtype).max_pool2d_backward
        kernel(_planes(dy), _planes(index), _planes(dx), *win.kernel, *_geometry(win), threads_for(_POOL_WORK * dx.size))
    return dx


def pool_counts(size: tuple[int, ...], win: Window, count_include_pad: bool) -> np.ndarray:
    """How many pixels each average of `avg_pool2d` is over, `(P, Q)`, in float64."""
    return reference.pool_counts(size, win, count_include_pad)


def _counts(size: tuple[int, ...], win: Window, count_include_pad: bool, dtype: np.dtype) -> np.ndarray:
    return np.ascontiguousarray(reference.pool_counts(size, win, count_include_pad), dtype)


def avg_pool2d(x: np.ndarray, win: Window, *, count_include_pad: bool = True) -> np.ndarray:
    """The average of each window of `win`, `(N, C, P, Q)`; padding counts as zeros, or not at all."""
    x = as_array(x, "avg_pool2d: x", 4)
    check_pool(x.shape[2:], win)
    y = memory.empty((*x.shape[:2], *win.output), x.dtype)
    if y.size:
        counts = _counts(x.shape[2:], win, count_include_pad, x.dtype)
        work = _POOL_WORK * y.size * win.kernel[0] * win.kernel[1]
        kernels.compiled(x.dtype).avg_pool2d_forward(
            _planes(x), counts, _planes(y), *win.kernel, *_geometry(win)[:4], threads_for(work)
        )
    return y


def avg_pool2d_backward(dy: np.ndarray, x_shape: tuple[int, ...], win: Window, *, count_include_pad: bool = True) -> np.ndarray:
    """The gradient of `avg_pool2d` with respect to its input of shape `x_shape`."""
    dy = as_array(dy, "avg_pool2d: dy", 4)
    dy = _check_gradient(dy, (*x_shape[:2], *win.output), "avg_pool2d", dy.dtype)
    dx = memory.empty(tuple(x_shape), dy.dtype)
    if dx.size:
        counts = _counts(tuple(x_shape[2:]), win, count_include_pad, dy.dtype)
        work = _POOL_WORK * dy.size * win.kernel[0] * win.kernel[1]
        kernels.compiled(dy.dtype).avg_pool2d_backward(
            _planes(dy), counts, _planes(dx), *win.kernel, *_geometry(win)[:4], threads_for(work)
        )
    return dx


def _gemm(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, transpose_a: bool, transpose_b: bool) -> np.ndarray:
    m, k = a.shape[::-1] if transpose_a else a.shape
    n = b.shape[0] if transpose_b else b.shape[1]
    c = memory.empty((m, n), a.dtype)
    if c.size and k:
        kernel = kernels.compiled(a.dtype).gemm
        no_bias = _NO_BIAS[a.dtype]
        kernel(a, b, no_bias if bias is None else bias, c, transpose_a, transpose_b, threads_for(m * n * k))
    else:
        c[...] = 0 if bias is None else bias
    return c


def linear(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """`y = x @ w.T + b`; x `(N, in)`, w `(out, in)`, b `(out,)`; returns `(N, out)`."""
    x = as_array(x, "linear: x", 2)
    w = as_array(w, "linear: w", 2, x.dtype)
    if x.shape[1] != w.shape[1]:
        raise ShapeError(f"linear: weight {w.shape} is for {w.shape[1]} features; x has {x.shape[1]}")
    bias = None if b is None else as_array(b, "linear: b", 1, x.dtype)
    if bias is not None and bias.shape != w.shape[:1]:
        raise ShapeError(f"linear: b must have shape ({w.shape[0]},); got {bias.shape}")
    return _gemm(x, w, bias, False, True)


def linear_backward_input(dy: np.ndarray, w: np.ndarray) -> np.ndarray:
    """`dx = dy @ w`, the gradient of `linear` with respect to x."""
    dy = as_array(dy, "linear: dy", 2)
    w = as_array(w, "linear: w", 2, dy.dtype)
    return _gemm(_check_gradient(dy, (dy.shape[0], w.shape[0]), "linear", dy.dtype), w, None, False, False)


def linear_backward_weight(dy: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`dw = dy.T @ x` and `db`, the column sums of dy."""
    x = as_array(x, "linear: x", 2)
    dy = as_array(dy, "linear: dy", 2, x.dtype)
    dy = _check_gradient(dy, (x.shape[0], dy.shape[1]), "linear", x.dtype)
    return _gemm(dy, x, None, True, False), dy.sum(axis=0)


def relu(x: np.ndarray) -> np.ndarray:
    """`max(x, 0)`, any shape; NaN stays NaN."""
    x = as_array(x, "relu: x")
    y = memory.empty(x.shape, x.dtype)
    if y.size:
        kernels.compiled(x.dtype).relu_forward(x.reshape(-1), y.reshape(-1), threads_for(x.size))
    return y


def relu_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`dy` where the output `y` of `relu` was positive, else 0."""
    y = as_array(y, "relu: y")
    dy = _check_gradient(dy, y.shape, "relu", y.dtype)
    dx = memory.empty(y.shape, y.dtype)
    if y.size:
        kernels.compiled(y.dtype).relu_backward(dy.reshape(-1), y.reshape(-1), dx.reshape(-1), threads_for(y.size))
    return dx
