"""Convolution along one, two and three axes as functions of arrays."""

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple, TypedDict, Unpack

import numpy as np

from .. import kernels
from ..errors import ShapeError
from ..kernels import memory
from ..shapes import IntOrSequence, Padding, window
from . import batchnorm
from ._arrays import DTYPE_NAMES, NO_BIAS, as_array, check_gradient, fits
from ._bias import both_gradients
from .algorithms.calls import Backward, BackwardOnto, Forward, Kept, Maybe, WeightAdder
from .algorithms.problem import FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, Problem
from .plan import Options, Plan, planned
from .pointwise import add_gradient, add_to
from .pool.plane import bound_max_pool2d

Affine = tuple[np.ndarray, np.ndarray]
Fused = Callable[..., np.ndarray]  # of x, w, b, affine and residual, as `fused_forward` takes them


class ConvOptions(TypedDict, total=False):
    """The keyword arguments of a convolution, with the defaults of `conv2d`."""

    stride: IntOrSequence
    padding: Padding
    dilation: IntOrSequence
    groups: int
    algorithm: str


class Names(NamedTuple):
    """What messages call a function and its arguments: made once, since every call passes them on."""

    function: str
    x: str
    w: str
    b: str
    dy: str
    x_shape: str
    w_shape: str


def names_by_rank(function: str) -> dict[int, Names]:
    """Those of `conv1d` to `conv3d`, for `function` `"conv"`."""
    arguments = Names._fields[1:]
    return {r: Names(f"{function}{r}d", *(f"{function}{r}d: {name}" for name in arguments)) for r in (1, 2, 3)}


_NAMES = names_by_rank("conv")


def as_bias(b: np.ndarray | None, names: Names, filters: int, dtype: np.dtype) -> np.ndarray | None:
    """`b`, if there is one, as an array of one value a filter."""
    return None if b is None else _per_filter(b, names, filters, dtype)


def _per_filter(value: np.ndarray, names: Names, filters: int, dtype: np.dtype) -> np.ndarray:
    array = as_array(value, names.b, 1, dtype)
    if array.shape != (filters,):
        raise ShapeError(f"{names.b} must have shape ({filters},), one value a filter; got {array.shape}")
    return array


def as_shape(shape: Sequence[int], name: str, ndim: int) -> tuple[int, ...]:
    """`shape` as a tuple of `ndim` sizes."""
    if len(shape) != ndim:
        raise ShapeError(f"{name} must have {ndim} axes; got {tuple(shape)}")
    return tuple(shape)


# Along `rank` axes: what the layers call, with the options that they hold.


def forward(rank: int, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, relu: bool, options: Options) -> np.ndarray:
    names = _NAMES[rank]
    x = as_array(x, names.x, rank + 2)
    w = as_array(w, names.w, rank + 2, x.dtype)
    plan = planned(FORWARD, x.shape, w.shape, DTYPE_NAMES[x.dtype], options)
    return plan.run.forward(plan.problem, relu)(x, w, as_bias(b, names, w.shape[0], x.dtype))


def fused_forward(
    rank: int,
    x: np.ndarray,
    w: np.ndarray,
    b: Maybe,
    affine: Affine | None,
    residual: Maybe,
    relu: bool | float,
    pooled: bool,
    options: Options,
) -> np.ndarray:
    """`scale y + shift + residual` for the y that `forward` gives, at least 0 with `relu`, and at most that if it is a float;
    with `pooled`, for 2-d convolution, the maximum of each 2 x 2 of that.

    `affine` is scale and shift, `(M,)` each, and `residual` has the shape of y; either may be None.
    """
    names = _NAMES[rank]
    x = as_array(x, names.x, rank + 2)
    w = as_array(w, names.w, rank + 2, x.dtype)
    b = as_bias(b, names, w.shape[0], x.dtype)
    if affine is not None:
        scale, shift = (_per_filter(v, names, w.shape[0], x.dtype) for v in affine)
        affine = scale, shift
    plan = planned(FORWARD, x.shape, w.shape, DTYPE_NAMES[x.dtype], options)
    if residual is not None:
        residual = as_array(residual, f"{names.function}: residual", rank + 2, x.dtype)
        if residual.shape != plan.problem.y:
            raise ShapeError(f"{names.function}: residual must have the output's shape {plan.problem.y}; got {residual.shape}")
    return _fused(plan, affine is not None, residual is not None, relu, pooled, None)(x, w, b, affine, residual)


def _fused(plan: Plan, affine: bool, residual: bool, relu: bool | float, pooled: bool, kept: Kept | None) -> Fused:
    """In the algorithm's last pass, if it can do so, else one by one; `affine` and `residual` say what there will be."""
    fused_of = getattr(plan.run, "forward_fused", None)
    if fused_of is not None and (fused := fused_of(plan.problem, relu, residual, pooled, kept)) is not None:
        if not affine:
            return lambda x, w, b, affine, residual: fused(x, w, None, b, residual)
        return lambda x, w, b, affine, residual: fused(x, w, *joint(b, affine), residual)
    if pooled:
        return _pooled(_fused(plan, affine, residual, relu, False, kept), plan.problem)
    if isinstance(relu, float):
        return _bounded(_fused(plan, affine, residual, True, False, kept), plan.problem.type.type(relu))
    if residual:
        run = _fused(plan, affine, False, False, False, kept)
        return lambda x, w, b, affine, residual: add_to(run(x, w, b, affine, None), residual, relu=relu)
    return _scaled(plan, relu) if affine else _plain(plan, relu)


def _pooled(run: Fused, problem: Problem) -> Fused:
    """The maximum of each 2 x 2 of what `run` gives."""
    win = window(problem.y[2:], 2, stride=2)
    pool = bound_max_pool2d(problem.y, problem.type, win, False, False)
    return lambda x, w, b, affine, residual: pool(np.ascontiguousarray(run(x, w, b, affine, residual)))[0]


def _bounded(run: Fused, most: np.floating) -> Fused:
    """What `run` gives, at most that."""

    def bounded(x: np.ndarray, w: np.ndarray, b: Maybe, affine: Affine | None, residual: Maybe) -> np.ndarray:
        y = run(x, w, b, affine, residual)
        kernels.run(_hold, y, most)
        return y

    return bounded


def _hold(y: np.ndarray, most: np.floating) -> None:
    np.minimum(y, most, out=y)


def joint(b: Maybe, affine: Affine) -> tuple[np.ndarray, np.ndarray]:
    """The scale, and the shift with the bias in it."""
    scale, shift = affine
    if b is None:
        return scale, shift
    both = memory.empty(shift.shape, shift.dtype)
    kernels.run(np.multiply, b, scale, both)
    kernels.run(np.add, both, shift, both)
    return scale, both


def _plain(plan: Plan, relu: bool) -> Fused:
    run = plan.run.forward(plan.problem, relu)
    return lambda x, w, b, affine, residual: run(x, w, b)


def _scaled(plan: Plan, relu: bool) -> Fused:
    """By the weights, or by a pass over y where channels have fewer values than filters."""
    problem = plan.problem
    if problem.typical.x[0] * prod(problem.y[2:]) < prod(problem.w[1:]):
        plain, last = plan.run.forward(problem, False), batchnorm.bound_scale_shift(problem.y, problem.type, relu)

        def passed(x: np.ndarray, w: np.ndarray, b: Maybe, affine: Affine, residual: Maybe) -> np.ndarray:
            y = plain(x, w, b)
            return last(y, *affine, y)

        return passed
    run, nothing = plan.run.forward(problem, relu), kernels.constant(np.zeros(problem.w[0], problem.type))
    fold = batchnorm.bound_scale_shift((1, *problem.w), problem.type, False)

    def folded(x: np.ndarray, w: np.ndarray, b: Maybe, affine: Affine, residual: Maybe) -> np.ndarray:
        wide = fold(w, affine[0], nothing, memory.empty(problem.w, problem.type))
        return run(x, wide, joint(b, affine)[1])

    return folded


def backward_input(rank: int, dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], options: Options) -> np.ndarray:
    names = _NAMES[rank]
    dy = as_array(dy, names.dy, rank + 2)
    w = as_array(w, names.w, rank + 2, dy.dtype)
    plan = planned(INPUT_GRADIENT, as_shape(x_shape, names.x_shape, rank + 2), w.shape, DTYPE_NAMES[dy.dtype], options)
    return plan.run.backward_input(plan.problem)(check_gradient(dy, plan.problem.y, names.function, dy.dtype), w)


def backward_weight(
    rank: int, dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], bias: bool, options: Options
) -> tuple[np.ndarray, np.ndarray]:
    names = _NAMES[rank]
    x = as_array(x, names.x, rank + 2)
    plan = planned(WEIGHT_GRADIENT, x.shape, as_shape(w_shape, names.w_shape, rank + 2), DTYPE_NAMES[x.dtype], options)
    dy = check_gradient(dy, plan.problem.y, names.function, x.dtype)
    if bias:
        return both_gradients(plan)(dy, x)
    return plan.run.backward_weight(plan.problem)(dy, x), NO_BIAS[x.dtype]


# The same for arrays of one shape and type, planned beforehand: what a layer binds. An x or dy fits; of weights that is asked.


def bound_forward(
    rank: int, x_shape: tuple[int, ...], w_shape: tuple[int, ...], dtype: np.dtype, relu: bool, options: Options
) -> Forward:
    """y `(N, M, *output)` of x `(N, C, *size)`, w `(M, C/groups, *kernel)` and b `(M,)` or None."""
    plan = planned(FORWARD, x_shape, w_shape, DTYPE_NAMES[dtype], options)
    run, b_shape = plan.run.forward(plan.problem, relu), w_shape[:1]

    def bound(x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
        if fits(w, w_shape, dtype) and (b is None or fits(b, b_shape, dtype)):
            return run(x, w, b)
        return forward(rank, x, w, b, relu, options)

    return bound


def bound_fused_forward(
    rank: int,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    dtype: np.dtype,
    affine: bool,
    residual: bool,
    relu: bool | float,
    pooled: bool,
    options: Options,
    kept: Kept,
) -> Fused:
    """What `fused_forward` gives, of x, w, b, affine and residual; of the last two as said, and None else. What is made of w
    stays in `kept` for the next call, which asks whether w is what it was."""
    plan = planned(FORWARD, x_shape, w_shape, DTYPE_NAMES[dtype], options)
    run, shape, y = _fused(plan, affine, residual, relu, pooled, kept), w_shape[:1], plan.problem.y

    def bound(x: np.ndarray, w: np.ndarray, b: Maybe, affine: Affine | None, residual: Maybe) -> np.ndarray:
        arrays = fits(w, w_shape, dtype) and (b is None or fits(b, shape, dtype))
        fused = affine is None or (fits(affine[0], shape, dtype) and fits(affine[1], shape, dtype))
        if arrays and fused and (residual is None or fits(residual, y, dtype)):
            return run(x, w, b, affine, residual)
        return fused_forward(rank, x, w, b, affine, residual, relu, pooled, options)

    return bound


def bound_backward_input(
    rank: int, x_shape: tuple[int, ...], w_shape: tuple[int, ...], dtype: np.dtype, options: Options
) -> Backward:
    """dx, in the shape of x, of dy in that of y and w."""
    plan = planned(INPUT_GRADIENT, x_shape, w_shape, DTYPE_NAMES[dtype], options)
    run = plan.run.backward_input(plan.problem)

    def bound(dy: np.ndarray, w: np.ndarray) -> np.ndarray:
        return run(dy, w) if fits(w, w_shape, dtype) else backward_input(rank, dy, w, x_shape, options)

    return bound


def bound_backward_input_onto(
    rank: int, x_shape: tuple[int, ...], w_shape: tuple[int, ...], dtype: np.dtype, options: Options
) -> BackwardOnto | None:
    """What `bound_backward_input` gives plus an array in the shape of x, in its last pass; None where it has none for that."""
    plan = planned(INPUT_GRADIENT, x_shape, w_shape, DTYPE_NAMES[dtype], options)
    onto_of = getattr(plan.run, "backward_input_onto", None)
    run: BackwardOnto | None = onto_of(plan.problem) if onto_of is not None else None
    if run is None:
        return None

    def bound(dy: np.ndarray, w: np.ndarray, array: np.ndarray) -> np.ndarray:
        if fits(w, w_shape, dtype):
            return run(dy, w, array)
        return add_to(backward_input(rank, dy, w, x_shape, options), array)

    return bound


def bound_add_backward_weight(
    rank: int, x_shape: tuple[int, ...], w_shape: tuple[int, ...], dtype: np.dtype, options: Options
) -> Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None], None]:
    """What adds the gradients of dy and x to two arrays: dw in the shape of w, and db `(M,)` or None."""
    plan = planned(WEIGHT_GRADIENT, x_shape, w_shape, DTYPE_NAMES[dtype], options)
    run, adder_of = plan.run.backward_weight(plan.problem), getattr(plan.run, "add_backward_weight", None)
    adder: WeightAdder | None = adder_of(plan.problem) if adder_of is not None else None
    both = both_gradients(plan)

    def bound(dy: np.ndarray, x: np.ndarray, dw: np.ndarray, db: np.ndarray | None) -> None:
        if adder is not None and fits(dw, w_shape, dtype) and (db is None or fits(db, w_shape[:1], dtype)):
            adder(dy, x, dw, db)
        elif db is None:
            add_gradient(dw, run(dy, x))
        else:
            more_w, more_b = both(dy, x)
            add_gradient(dw, more_w)
            add_gradient(db, more_b)

    return bound


def _backward(
    rank: int, dy: np.ndarray, x: np.ndarray, w: np.ndarray, options: Options
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    names = _NAMES[rank]
    x = as_array(x, names.x, rank + 2)
    w = as_array(w, names.w, rank + 2, x.dtype)
    dw, db = backward_weight(rank, dy, x, w.shape, True, options)
    return backward_input(rank, as_array(dy, names.dy, rank + 2, x.dtype), w, x.shape, options), dw, db


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
    return forward(1, x, w, b, bool(relu), Options(stride, padding, dilation, groups, None, algorithm))


def conv1d_backward_input(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], **options: Unpack[ConvOptions]
) -> np.ndarray:
    """The gradient of `conv1d` with respect to an input of shape `x_shape`; dy `(N, M, P)`."""
    return backward_input(1, dy, w, x_shape, Options(**options))


def conv1d_backward_weight(
    dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], *, bias: bool = True, **options: Unpack[ConvOptions]
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `conv1d` with respect to weights of shape `w_shape` and to the bias: `(dw, db)`."""
    return backward_weight(1, dy, x, w_shape, bias, Options(**options))


def conv1d_backward(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, **options: Unpack[ConvOptions]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All gradients of `conv1d`: `(dx, dw, db)`."""
    return _backward(1, dy, x, w, Options(**options))


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
    cheapest by a cost model (`explain_conv2d` tells), `"direct"` (the definition, compiled), `"winograd"` (kernels of 3x3 and
    larger, and rows and columns of 2 to 31 taps, at stride 1, with a dilation too; of 3x3 to 6x6 at stride 2; a value that is
    not finite spreads over its tile), `"fft"` (for large kernels; it spreads over its image) or `"einsum"` (the reference, in
    float64 inside). With `relu`, `max(y, 0)`, in the same pass.
    """
    return forward(2, x, w, b, bool(relu), Options(stride, padding, dilation, groups, None, algorithm))


def conv2d_backward_input(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], **options: Unpack[ConvOptions]
) -> np.ndarray:
    """The gradient of `conv2d` with respect to an input of shape `x_shape`; dy `(N, M, P, Q)`."""
    return backward_input(2, dy, w, x_shape, Options(**options))


def conv2d_backward_weight(
    dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], *, bias: bool = True, **options: Unpack[ConvOptions]
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `conv2d` with respect to weights of shape `w_shape` and to the bias: `(dw, db)`.

    Without `bias`, db is empty.
    """
    return backward_weight(2, dy, x, w_shape, bias, Options(**options))


def conv2d_backward(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, **options: Unpack[ConvOptions]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All gradients of `conv2d`: `(dx, dw, db)`, in the shapes of x, w and the bias."""
    return _backward(2, dy, x, w, Options(**options))


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
    two axes, so `"winograd"` computes `(T, 3, 3)` kernels and larger ones, and those of 2 to 31 taps along one axis.
    """
    return forward(3, x, w, b, bool(relu), Options(stride, padding, dilation, groups, None, algorithm))


def conv3d_backward_input(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], **options: Unpack[ConvOptions]
) -> np.ndarray:
    """The gradient of `conv3d` with respect to an input of shape `x_shape`; dy `(N, M, O, P, Q)`."""
    return backward_input(3, dy, w, x_shape, Options(**options))


def conv3d_backward_weight(
    dy: np.ndarray, x: np.ndarray, w_shape: tuple[int, ...], *, bias: bool = True, **options: Unpack[ConvOptions]
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of `conv3d` with respect to weights of shape `w_shape` and to the bias: `(dw, db)`."""
    return backward_weight(3, dy, x, w_shape, bias, Options(**options))


def conv3d_backward(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, **options: Unpack[ConvOptions]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All gradients of `conv3d`: `(dx, dw, db)`."""
    return _backward(3, dy, x, w, Options(**options))
