"""Which algorithm computes a convolution: from its sizes and the instruction set alone, so the bits never depend on a clock.

Every algorithm is a module of `algorithms/` with the same five functions:

    refuses(problem)            why it cannot compute this, or None
    cost(problem, machine)      its time on one thread, in microseconds, by a model
    forward(problem, relu)      a function of x, w and the bias or None that gives y, or max(y, 0)
    backward_input(problem)     a function of dy and w that gives dx
    backward_weight(problem)    a function of dy and x that gives dw

and, where its last passes can do so,

    forward_fused(problem, relu, residual, pooled, kept)
                                a function of x, w, scale, shift and residual, or None for any of those three, that gives
                                scale y + shift + residual, or its ReLU; or None. `residual` says whether there will be one,
                                `relu` may be a float, its upper bound; `kept` is where what is made of w may stay for the
                                next call, or None
    backward_input_onto(problem)
                                a function of dy, w and an array that gives dx plus that array; or None
    backward_both(problem)
                                a function of dy and x that gives dw and the bias's gradient; or None
    add_backward_weight(problem)
                                a function of dy, x and the arrays that dw and db, which may be None, are added to; or None

The functions are for the instruction set of the problem and the thread count of the time when they were asked for.

Problems are those of images; convolutions of sequences and volumes become such (`algorithms/ranks.py`), and a transposed
convolution is one with the roles of the passes swapped.

`algorithm="auto"` takes the one that costs least. The thread count plays no part, since it must not change the bits, and
the batch only in the weight gradient, and by whether it has more than three images.
"""

from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

from .. import kernels
from ..errors import ConfigError, ConvlayersError, ShapeError, located
from ..shapes import IntOrSequence, Padding, conv_groups, frozen, positive, transposed_window, window
from .algorithms import direct, einsum, fft, winograd
from .algorithms.problem import DIRECTIONS, MACHINES, Problem
from .algorithms.ranks import Unrolled, Viewed, in_two_axes

ALGORITHMS = ("auto", "direct", "winograd", "fft", "einsum")
_MODULES: dict[str, ModuleType] = {"direct": direct, "winograd": winograd, "fft": fft, "einsum": einsum}


class Options(NamedTuple):
    """The keyword arguments of a convolution; with `output_padding`, of a transposed one."""

    stride: IntOrSequence = 1
    padding: Padding = 0
    dilation: IntOrSequence = 1
    groups: int = 1
    output_padding: IntOrSequence | None = None
    algorithm: str = "auto"


class Plan(NamedTuple):
    """A convolution with every default resolved, and the algorithm that computes it; `run` has the last three functions."""

    problem: Problem
    algorithm: str
    run: ModuleType | Viewed | Unrolled
    costs: dict[str, float]
    refusals: dict[str, str]


def check_algorithm(algorithm: str) -> str:
    """`algorithm` if there is one of that name."""
    if algorithm not in ALGORITHMS:
        raise ConfigError(f"algorithm must be one of {', '.join(ALGORITHMS)}; got {algorithm!r}")
    return algorithm


def conv_options(*options: Any) -> Options:
    """`Options` with tuples for the lists of JSON, so that plans can be looked up: what a layer holds."""
    return Options._make(frozen(options))


def _problem(direction: str, x: tuple, w: tuple, options: Options, dtype: str, isa: str) -> Problem:
    stride, padding, dilation, groups, output_padding, _ = options
    positive(groups, "groups")
    if output_padding is not None:
        if x[1] != w[0]:
            raise ShapeError(f"weight {w} is for {w[0]} input channels; x has {x[1]}")
        conv_groups(x[1], w[1] * groups, groups)
        how: dict[str, Any] = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
        size, win, _ = transposed_window(x[2:], w[2:], **how)
        return Problem(direction, (x[0], w[1] * groups, *size), w, win, groups, dtype, isa)
    if conv_groups(x[1], w[0], groups) != w[1]:
        raise ShapeError(f"weight {w} is for {w[1] * groups} input channels in {groups} group(s); x has {x[1]}")
    win = window(x[2:], w[2:], stride=stride, dilation=dilation, padding=padding)
    return Problem(direction, x, w, win, groups, dtype, isa)


def _choose(problem: Problem, algorithm: str) -> Plan:
    flat, adapter = in_two_axes(problem)
    refusals = {name: why for name, module in _MODULES.items() if (why := module.refuses(flat))}
    machine = MACHINES[problem.isa]
    costs = {name: module.cost(flat.typical, machine) for name, module in _MODULES.items() if name not in refusals}
    if algorithm in refusals:
        able = ", ".join(name for name in _MODULES if name not in refusals)
        raise ConfigError(f"algorithm {algorithm!r} {refusals[algorithm]}; {able} can")
    chosen = min(costs, key=costs.__getitem__) if algorithm == "auto" else algorithm
    run = _MODULES[chosen]
    return Plan(problem, chosen, adapter(run, flat) if adapter else run, costs, refusals)


@lru_cache(maxsize=4096, typed=True)
def _cached(direction: str, x: tuple, w: tuple, dtype: str, isa: str, *options: Any) -> Plan:
    """Planning takes about 50 us; a network asks the same again at every step."""
    how = Options(*options)
    return _choose(_problem(direction, x, w, how, dtype, isa), check_algorithm(how.algorithm))


def plan_conv(direction: str, x: tuple[int, ...], w: tuple[int, ...], dtype: str, **options: Any) -> Plan:
    """The plan for one direction of the convolution of x with w, along one, two or three axes; errors name it.

    With an `output_padding`, of the convolution whose input gradient is the transposed convolution of x with w.
    """
    return planned(direction, x, w, dtype, Options(**options))


def planned(direction: str, x: tuple[int, ...], w: tuple[int, ...], dtype: str, options: Options) -> Plan:
    """What `plan_conv` gives, for every call of a convolution."""
    try:
        return _cached(direction, x, w, dtype, kernels.isa(), *options)
    except ConvlayersError as error:
        raise _named(error, x, options) from None
    except TypeError:
        return _unhashable(direction, x, w, dtype, options)


def _unhashable(direction: str, x: tuple[int, ...], w: tuple[int, ...], dtype: str, options: Options) -> Plan:
    """The same for lists, as JSON has them, which cannot be looked up; tuples can."""
    try:
        try:
            return _cached(direction, x, w, dtype, kernels.isa(), *frozen(tuple(options)))
        except TypeError:
            return _cached.__wrapped__(direction, x, w, dtype, kernels.isa(), *options)
    except ConvlayersError as error:
        raise _named(error, x, options) from None


def _named(error: ConvlayersError, x: tuple[int, ...], options: Options) -> ConvlayersError:
    return located(error, f"conv{len(x) - 2}d" if options.output_padding is None else f"conv_transpose{len(x) - 2}d")


def explain_conv2d(
    x_shape: Sequence[int], w_shape: Sequence[int], *, stride: IntOrSequence = 1, padding: Padding = 0,
    dilation: IntOrSequence = 1, groups: int = 1, algorithm: str = "auto", dtype: str = "float32",
) -> str:  # fmt: skip
    """What `conv2d` would choose for forward, input gradient and weight gradient, and why, as text.

    The shapes may be those of `conv1d` and `conv3d` as well.

    A line for each direction, with every algorithm's estimate in microseconds on one thread, cheapest first, and the reason
    where one cannot be used. Forward and input gradient are planned as for 16 images, or for 1 where the batch has up to 3.
    The estimates are of a model (docs/performance.md): good for order, not for the clock.
    """
    lines = []
    for direction in DIRECTIONS:
        options = Options(stride, padding, dilation, groups, algorithm=algorithm)
        plan = planned(direction, tuple(x_shape), tuple(w_shape), dtype, options)
        estimates = ", ".join(f"{name} {us:.3g} us" for name, us in sorted(plan.costs.items(), key=lambda item: item[1]))
        why = "asked for" if algorithm != "auto" else "the least of the estimates"
        lines.append(f"{direction}: {plan.algorithm} ({why}); {estimates}")
        lines += [f"    {name} {reason}" for name, reason in plan.refusals.items()]
    return "\n".join(lines)
