"""Winograd's minimal filtering, of each kind of kernel in its own way: by tiles that are convolved as they are
(winograd_tiles.py, rows and columns of taps among them), larger kernels by blocks of their taps (winograd_blocks.py), strides
by an image's phases (winograd_phases.py), and dilations phase by phase (winograd_dilated.py).

The rounding is of the order of the definition's own (docs/numerics.md), so `auto` may take it wherever it is cheaper.
"""

from math import inf
from types import ModuleType

from . import direct, winograd_blocks, winograd_lines, winograd_phases, winograd_tiles
from .calls import Backward, BackwardBoth, BackwardOnto, Forward, FusedForward, Kept, WeightAdder
from .problem import WEIGHT_GRADIENT, Machine, Problem, once
from .winograd_dilated import Dilated, phases_of

_TAKES = (
    "takes kernels of 3x3 and larger with stride 1 or 2, dilated ones and rows and columns of 2 to 31 taps with stride 1 alone"
)
_NO_PIXELS = "takes no images without pixels"


def refuses(problem: Problem) -> str | None:
    """It computes kernels of 3 x 3 and more and rows and columns of taps at stride 1, and at stride 2 what winograd_phases.py
    takes."""
    win = problem.win
    dilated = win.dilation != (1, 1)
    if winograd_lines.takes(win) and win.stride == (1, 1):
        if problem.depthwise:
            return "takes no rows and columns of taps where each channel has filters of its own"
        return None if all(problem.x[2:]) else _NO_PIXELS
    if min(win.kernel) < 2 or max(win.kernel) < 3 or win.stride not in ((1, 1), (2, 2)) or (dilated and win.stride != (1, 1)):
        return _TAKES
    if win.stride == (2, 2) and not winograd_phases.takes(win):
        return "takes kernels of 3x3 to 5x5 at stride 2, and of 6x6 where padding is even"
    if problem.depthwise and (win.kernel != (3, 3) or dilated):
        return "takes 3x3 kernels without a dilation alone where each channel has filters of its own"
    return None if all(problem.x[2:]) else _NO_PIXELS


@once
def _kind(problem: Problem) -> ModuleType | Dilated:
    win = problem.win
    if not problem.work:
        return direct  # no image: there is nothing to compute, and all that is here is for some
    if win.dilation != (1, 1):
        kind = _kind(phases_of(problem))
        assert not isinstance(kind, Dilated)
        return Dilated(kind)
    if win.stride == (2, 2):
        return winograd_phases if win.kernel != (3, 3) or problem.direction == WEIGHT_GRADIENT else winograd_tiles
    return winograd_tiles if win.kernel in ((3, 3), (5, 5)) or winograd_lines.takes(win) else winograd_blocks


def cost(problem: Problem, machine: Machine) -> float:
    """Microseconds on one thread; never the least where a sequence's outputs must not know what comes behind them: a tile's do
    in their last bits, and by a value that is not finite."""
    if winograd_lines.is_causal(problem.win):
        return inf
    microseconds: float = _kind(problem).cost(problem, machine)
    return microseconds


def forward(problem: Problem, relu: bool) -> Forward:
    """y, or max(y, 0)."""
    run: Forward = _kind(problem).forward(problem, relu)
    return run


def forward_fused(problem: Problem, relu: bool | float, residual: bool, pooled: bool, kept: Kept | None) -> FusedForward | None:
    """y times a scale, plus a shift and a residual, or the maximum of each 2 x 2 of it, in the last pass; None where a kind has
    none of that."""
    fused_of = getattr(_kind(problem), "forward_fused", None)
    return fused_of and fused_of(problem, relu, residual, pooled, kept)


def backward_input(problem: Problem) -> Backward:
    """dx."""
    run: Backward = _kind(problem).backward_input(problem)
    return run


def backward_input_onto(problem: Problem) -> BackwardOnto | None:
    """dx and an array of its shape that is added in the last pass; None where a kind has none of that."""
    onto_of = getattr(_kind(problem), "backward_input_onto", None)
    return onto_of and onto_of(problem)


def backward_weight(problem: Problem) -> Backward:
    """dw."""
    run: Backward = _kind(problem).backward_weight(problem)
    return run


def backward_both(problem: Problem) -> BackwardBoth | None:
    """dw and db; None where a kind has none of that."""
    both_of = getattr(_kind(problem), "backward_both", None)
    return both_of and both_of(problem)


def add_backward_weight(problem: Problem) -> WeightAdder | None:
    """A function of dy, x and what dw and db are added to; None where a kind has none of that."""
    add_of = getattr(_kind(problem), "add_backward_weight", None)
    return add_of and add_of(problem)
