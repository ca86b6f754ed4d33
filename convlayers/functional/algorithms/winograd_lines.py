"""What Winograd's minimal filtering of kernels of one row or of one column costs, at stride 1 (ext/winograd_lines.pxi).

F(m, r) with m + r = 9: eight products stand for m r of the definition. Kernels of more than five taps are sums of parts of r,
zeros behind their last tap, whose products are added up like those of more channels. Convolutions of sequences are such, and
what large kernels are factorized to (Szegedy et al. 2016, arXiv:1512.00567).
"""

from ...shapes import Window
from .problem import INPUT_GRADIENT, NEAR_SUMS, WEIGHT_GRADIENT, Machine, Problem

MOST_TAPS = 31  # of a kernel; the Fourier transform is there for more
_VALUES = 8  # of a transformed tile
# Cycles to transform a vector of tiles of one channel, in or out; for the weight gradient, copies included; of a vector of
# filters; to copy a row of one channel, in or out, and the call (Zen 3).
_TILE_CYCLES = 71
_GRADIENT_TILE_CYCLES = 67
_FILTER_CYCLES = 180
_ROW_CYCLES = 12
_CALL_CYCLES = 16_000


def takes(win: Window) -> bool:
    """Whether a kernel is one row or one column of taps."""
    return min(win.kernel) == 1 and 1 < max(win.kernel) <= MOST_TAPS


def is_causal(win: Window) -> bool:
    """Whether one end alone is padded, and for every tap: no output of a sequence sees what comes behind it, or before it."""
    along = win.kernel.index(max(win.kernel))
    span = win.dilation[along] * (win.kernel[along] - 1)
    return takes(win) and win.padding[along] in ((span, 0), (0, span))


def _parting(win: Window) -> tuple[int, int]:
    """r, and how many parts of so many taps: what takes the fewest products, and of equals the longest tiles."""
    taps = max(win.kernel)
    r = min(range(2, 6), key=lambda r: (-(-taps // r) / (_VALUES + 1 - r), r))
    return r, -(-taps // r)


def outputs(win: Window) -> int:
    """m, of a tile."""
    return _VALUES + 1 - _parting(win)[0]


def cost(problem: Problem, machine: Machine) -> float:
    """Microseconds on one thread."""
    (n, channels, *size), filters, win, lanes = problem.x, problem.w[0], problem.win, machine.lanes(problem.dtype)
    (_, parts), output = _parting(win), list(win.output)
    if problem.direction == INPUT_GRADIENT:
        output, channels, filters = size, filters, channels
    along = win.kernel.index(max(win.kernel))
    vectors = -(-n * output[1 - along] * -(-output[along] // outputs(win)) // lanes)
    rows, depth = filters / problem.groups, channels / problem.groups * parts
    sums = _VALUES * vectors * lanes * filters * depth * (1 + 7 / depth) * max(1, 4 / rows)
    cycles = filters * depth / lanes * _FILTER_CYCLES + _CALL_CYCLES
    if problem.direction == WEIGHT_GRADIENT:
        sums *= machine.far_sums if _VALUES * filters * depth / parts > NEAR_SUMS else 1
        cycles += vectors * (channels + filters) * parts * _GRADIENT_TILE_CYCLES
    else:
        cycles += vectors * (channels * parts + filters) * _TILE_CYCLES + n * (channels + filters) * output[0] * _ROW_CYCLES
    return 2e-3 * sums / machine.gflops_of(problem.dtype) + machine.microseconds(cycles)
