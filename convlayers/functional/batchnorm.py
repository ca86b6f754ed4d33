"""Batch normalisation as functions of arrays."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np

from .. import kernels
from ..errors import ShapeError
from ..kernels import memory, threads_over
from ._arrays import as_array, check_gradient, fits
from .algorithms.calls import ceiling

_FLOAT64 = np.dtype(np.float64)


class BatchNormPass(NamedTuple):
    """What `batch_norm_backward` takes of a forward pass; `moments` `(2, C)` are mean and biased variance, in float64."""

    x: np.ndarray
    moments: np.ndarray
    affine: np.ndarray
    eps: float
    training: bool
    relu: bool | float


def _planes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return shape[0], shape[1], prod(shape[2:])


def _per_channel(value: object, name: str, channels: int, dtype: np.dtype) -> np.ndarray:
    array = as_array(value, name, 1, dtype)
    if len(array) != channels:
        raise ShapeError(f"{name} must have shape ({channels},), one value a channel; got {array.shape}")
    return array


def batch_norm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    mean: np.ndarray | None = None,
    var: np.ndarray | None = None,
    *,
    eps: float = 1e-5,
    relu: bool | float = False,
) -> tuple[np.ndarray, BatchNormPass]:
    """`y = (x - mean) / sqrt(var + eps) * weight + bias`, channel by channel, and what `batch_norm_backward` needs.

    x `(N, C, ...)`, the others `(C,)`. Without `mean` and `var`, those of x, as in training: then a channel needs two
    values at least. `relu` gives `max(y, 0)`, to the bit what `relu(y)` gives; a float its upper bound, as `clip` does.
    """
    x = as_array(x, "batch_norm: x")
    if x.ndim < 2:
        raise ShapeError(f"batch_norm: x must have the axes (N, C, ...); got shape {x.shape}")
    channels = x.shape[1]
    weight = _per_channel(weight, "batch_norm: weight", channels, x.dtype)
    bias = _per_channel(bias, "batch_norm: bias", channels, x.dtype)
    training = mean is None or var is None
    moments = memory.empty((2, channels), _FLOAT64)
    if not training:
        kernels.run(np.copyto, moments[0], _per_channel(mean, "batch_norm: mean", channels, x.dtype))
        kernels.run(np.copyto, moments[1], _per_channel(var, "batch_norm: var", channels, x.dtype))
    elif x.size == channels > 0:
        raise ShapeError(f"batch_norm: in training a channel needs two values at least, to have a variance; x is {x.shape}")
    y, affine = memory.empty(x.shape, x.dtype), memory.empty((3, channels), x.dtype)
    if x.size:
        kernel, planes = kernels.compiled(x.dtype).batch_norm_forward, _planes(x.shape)
        last = training, ceiling(relu), threads_over(x.size)
        kernel(x.reshape(planes), (weight, bias), (moments, affine, eps), y.reshape(planes), *last, None)
    return y, BatchNormPass(x, moments, affine, eps, training, relu)


def batch_norm_backward(dy: np.ndarray, done: BatchNormPass) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of `batch_norm`: `(dx, dw, db)`. Given moments are constants; those of x depend on x."""
    x = done.x
    dy = check_gradient(dy, x.shape, "batch_norm", x.dtype)
    dx, sums = memory.empty(x.shape, x.dtype), memory.empty((2, x.shape[1]), x.dtype)
    kernels.run(np.copyto, sums, 0)
    dw, db = sums
    if x.size:
        kernel, planes = kernels.compiled(x.dtype).batch_norm_backward, _planes(x.shape)
        norm = done.moments, done.affine, done.eps
        last = done.training, ceiling(done.relu), threads_over(x.size), None, None
        kernel(dy.reshape(planes), x.reshape(planes), norm, dx.reshape(planes), dw, db, *last)
    return dx, dw, db


class BoundBatchNorm(NamedTuple):
    """`batch_norm` in training and its gradient, for one shape and type of x; all else is `(C,)` of that type.

    `forward` takes x, weight, bias, and mean and variance that it moves; `backward` takes dy, and dw and db that it adds to.
    For planes of more than one pixel, `forward` takes a residual too, which is added, and then the ReLU is that of the sum;
    `backward_of_sum` takes dy, what forward left, such a sum after its ReLU, dw and db, and gives the gradients of x and of
    the residual.
    """

    forward: Callable[..., tuple[np.ndarray, BatchNormPass]]
    backward: Callable[[np.ndarray, BatchNormPass, np.ndarray, np.ndarray], np.ndarray]
    backward_of_sum: Callable[[np.ndarray, BatchNormPass, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def bound_batch_norm(
    shape: tuple[int, ...], dtype: np.dtype, eps: float, momentum: float, relu: bool | float
) -> BoundBatchNorm:
    """For a shape with two values a channel or more."""
    compiled, planes, threads = kernels.compiled(dtype), _planes(shape), threads_over(prod(shape))
    run, differentiate, follow = compiled.batch_norm_forward, compiled.batch_norm_backward, compiled.batch_norm_follow
    channels, correction = shape[1], unbiased(prod(shape) // shape[1])

    def forward(
        x: np.ndarray,
        weight: np.ndarray,
        bias: np.ndarray,
        mean: np.ndarray,
        var: np.ndarray,
        residual: np.ndarray | None = None,
    ) -> tuple[np.ndarray, BatchNormPass]:
        y = memory.empty(shape, dtype)
        moments, affine = memory.empty((2, channels), _FLOAT64), memory.empty((3, channels), dtype)
        last = True, ceiling(relu), threads, None if residual is None else residual.reshape(-1)
        run(x.reshape(planes), (weight, bias), (moments, affine, eps), y.reshape(planes), *last)
        follow(mean, var, moments, momentum, correction)
        return y, BatchNormPass(x, moments, affine, eps, True, residual is None and relu)

    def backward(dy: np.ndarray, done: BatchNormPass, dw: np.ndarray, db: np.ndarray) -> np.ndarray:
        dx = memory.empty(shape, dtype)
        norm, last = (done.moments, done.affine, done.eps), (True, ceiling(done.relu), threads, None, None)
        differentiate(dy.reshape(planes), done.x.reshape(planes), norm, dx.reshape(planes), dw, db, *last)
        return dx

    def backward_of_sum(
        dy: np.ndarray, done: BatchNormPass, y: np.ndarray, dw: np.ndarray, db: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        dx, dr = memory.empty(shape, dtype), memory.empty(shape, dtype)
        norm, last = (done.moments, done.affine, done.eps), (True, 0.0, threads, y.reshape(-1), dr.reshape(-1))
        differentiate(dy.reshape(planes), done.x.reshape(planes), norm, dx.reshape(planes), dw, db, *last)
        return dx, dr

    return BoundBatchNorm(forward, backward, backward_of_sum)


def unbiased(values: int) -> float:
    """A variance divided by `values - 1`, over the one divided by `values`."""
    return values / (values - 1)


def batch_norm_follow(mean: np.ndarray, var: np.ndarray, moments: np.ndarray, momentum: float, values: int) -> None:
    """Move running statistics `(C,)` by `momentum` towards mean and biased variance, `(2, C)` in float64, of so many values.

    `mean = (1 - momentum) mean + momentum moments[0]`, and the like for `var` with `moments[1] values / (values - 1)`.
    """
    first = as_array(mean, "batch_norm: mean", 1)
    arrays = first, _per_channel(var, "batch_norm: var", len(first), first.dtype)
    moments = np.ascontiguousarray(moments, np.float64)
    if moments.shape != (2, len(first)) or values < 2:
        expected = f"(2, {len(first)}), of two values a channel at least"
        raise ShapeError(f"batch_norm: moments must have shape {expected}; got {moments.shape}, of {values}")
    kernels.compiled(arrays[0].dtype).batch_norm_follow(*arrays, moments, momentum, unbiased(values))
    for given, moved in zip((mean, var), arrays, strict=True):
        if moved is not given:
            kernels.unrecordable()
            given[...] = moved


def batch_norm_affine(
    weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, var: np.ndarray, *, eps: float = 1e-5
) -> tuple[np.ndarray, np.ndarray]:
    """`batch_norm` by given moments as `y = scale x + shift`: the two, `(C,)` each, `weight / sqrt(var + eps)` and
    `bias - mean scale`, rounded once from float64."""
    weight = as_array(weight, "batch_norm: weight", 1)
    shape, dtype = weight.shape, weight.dtype
    # Asked for at each call of a layer whose kernels may take no longer: messages are made where they are needed alone.
    if not (fits(bias, shape, dtype) and fits(mean, shape, dtype) and fits(var, shape, dtype)):
        named = (("bias", bias), ("mean", mean), ("var", var))
        bias, mean, var = (_per_channel(v, f"batch_norm: {n}", len(weight), dtype) for n, v in named)
    affine = memory.empty((2, *shape), dtype)
    kernels.compiled(dtype).batch_norm_affine(weight, bias, mean, var, eps, affine)
    return affine[0], affine[1]


def bound_scale_shift(
    shape: tuple[int, ...], dtype: np.dtype, relu: bool
) -> Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """`scale_shift` of an x of this shape and type, to the last argument, which may be x."""
    kernel, planes, threads = kernels.compiled(dtype).batch_norm_forward, _planes(shape), threads_over(prod(shape))
    moments = kernels.constant(np.stack([np.zeros(shape[1]), np.ones(shape[1])]))

    def bound(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, y: np.ndarray) -> np.ndarray:
        if x.size:
            norm = moments, memory.empty((3, planes[1]), dtype), 0.0
            kernel(x.reshape(planes), (scale, shift), norm, y.reshape(planes), False, ceiling(relu), threads, None)
        return y

    return bound


def scale_shift(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, *, relu: bool = False) -> np.ndarray:
    """`y = scale x + shift`, channel by channel; x `(N, C, ...)`, the others `(C,)`. `relu` gives `max(y, 0)`."""
    x = as_array(x, "scale_shift: x")
    constants = (kernels.constant(make(len(scale), x.dtype)) for make in (np.zeros, np.ones))
    return batch_norm(x, scale, shift, *constants, eps=0.0, relu=relu)[0]
