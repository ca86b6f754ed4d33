"""Products of Fourier transforms (`numpy.fft`): a kernel's size hardly matters, so it pays where kernels are large.

On one circular grid lie x after its padding, w with its taps `dilation` apart, and dy with its pixels `stride` apart, zeros
between. With capitals for transforms and * for the conjugate, frequency by frequency,

    Y[n,m] = sum_c X[n,c] W[m,c]*       DX[n,c] = sum_m DY[n,m] W[m,c]       DW[m,c] = sum_n X[n,c] DY[n,m]*

(Mathieu, Henaff and LeCun, Fast Training of Convolutional Networks through FFTs, 2014). The grid is as long as what the kernel
reads, so nothing that is kept wraps around. A stride is computed in full and then thinned out.

A value that is not finite reaches every output of its image, and errors are relative to the norm of a whole image (see
docs/numerics.md). Transforms and frequencies are computed each alone: the same bits for any number of threads.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import product
from math import prod, sqrt
from os import getpid
from typing import NamedTuple

import numpy as np

from ... import kernels
from ...kernels import memory, threads_for
from ..pointwise import relu as rectified
from .calls import Backward, Forward
from .problem import FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, Machine, Problem

_SPECTRA = 64 * 2**20  # bytes of the spectra held at once
_RUN = 2**20  # bytes of spectra that a thread works on at once: with fewer, calls cost more; with more, memory does


class Sizes(NamedTuple):
    """Of left `(groups, rows, depth)`, right `(groups, depth, columns)` and result `(groups, rows, columns)`."""

    groups: int
    rows: int
    depth: int
    columns: int

    @property
    def planes(self) -> int:
        """Planes of all three."""
        return self.groups * (self.rows * self.depth + self.depth * self.columns + self.rows * self.columns)

    def within(self, planes: int) -> "Sizes":
        """The largest block of at most `planes`: fewer groups first, then half of what there is most of."""
        groups, *rest = (max(n, 1) for n in self)
        while Sizes(groups, *rest).planes > planes and max(groups, *rest) > 1:
            if groups > 1:
                groups = -(-groups // 2)
            else:
                rest[rest.index(max(rest))] = -(-max(rest) // 2)
        return Sizes(groups, *rest)


class Layout:
    """A problem on the grid: the grid's size, the lengths of its transforms, and the block that is computed at once."""

    def __init__(self, problem: Problem) -> None:
        win, groups = problem.win, problem.groups
        axes = zip(win.output, win.stride, win.kernel, win.dilation, strict=True)
        self.span = tuple((o - 1) * s + (k - 1) * d + 1 for o, s, k, d in axes)
        self.lengths = tuple(map(fast_length, self.span))
        self.axes = tuple(range(1, 1 + len(self.span)))
        self.frequencies = (*self.lengths[:-1], self.lengths[-1] // 2 + 1)
        images, channels, filters = problem.x[0], problem.w[1], problem.w[0] // groups
        self.sizes = {
            FORWARD: Sizes(groups, images, channels, filters),
            INPUT_GRADIENT: Sizes(groups, images, filters, channels),
            WEIGHT_GRADIENT: Sizes(groups, channels, images, filters),
        }[problem.direction]
        self.spectrum_bytes = prod(self.frequencies) * 2 * np.dtype(problem.dtype).itemsize
        self.block = self.sizes.within(_SPECTRA // self.spectrum_bytes)

    @property
    def transforms(self) -> int:
        """Planes to be transformed: an operand again for every block of the other."""
        groups, rows, depth, columns = self.sizes
        left, right = rows * -(-columns // self.block.columns), columns * -(-rows // self.block.rows)
        return groups * (depth * (left + right) + rows * columns)


class Grid(NamedTuple):
    """An array `(groups, rows, columns, *size)` whose pixel i lies at `before + i step` of the grid."""

    array: np.ndarray
    before: tuple[int, ...]
    step: tuple[int, ...]

    def places(self, span: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The pixels that lie within `span`, as slices of the array, and their places, as slices of the grid."""
        inside, outside = [], []
        for size, before, step, end in zip(self.array.shape[3:], self.before, self.step, span, strict=True):
            fit = min(size, max(0, -(-(end - before) // step)))
            inside.append(slice(0, fit))
            outside.append(slice(before, before + fit * step, step))
        return tuple(inside), tuple(outside)


def fast_length(n: int) -> int:
    """The smallest even number of at least `n` without a prime factor over 11: what NumPy transforms fast; and 1 for 1."""
    if n == 1:
        return 1
    length = n + n % 2
    while not _is_smooth(length):
        length += 2
    return length


def _is_smooth(n: int) -> bool:
    for prime in (2, 3, 5, 7, 11):
        while n % prime == 0:
            n //= prime
    return n == 1


@lru_cache(maxsize=8)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Kept, as a thread's memory is; a forked process has none of its parent's threads and makes its own."""
    return ThreadPoolExecutor(threads)


def _run(function: Callable[[slice], None], parts: list[slice], threads: int) -> None:
    """Call `function` for every part of its work; NumPy computes outside the interpreter's lock."""
    if threads == 1 or len(parts) == 1:
        for part in parts:
            function(part)
    else:
        list(_pool(threads, getpid()).map(function, parts))


def _parts(count: int, block: int) -> list[slice]:
    block = max(block, 1)
    return [slice(i, min(i + block, count)) for i in range(0, count, block)]


def _transform(grid: Grid, part: tuple[slice, ...], layout: Layout, threads: int) -> np.ndarray:
    """The spectra of a part of an operand, `(groups, rows, columns, 2 x frequencies)`: real and imaginary parts in turn."""
    array = grid.array[part]
    planes = array.reshape(-1, *array.shape[3:])
    spectra = memory.empty((len(planes), 2 * prod(layout.frequencies)), array.dtype)
    complex_spectra = _complex(spectra, layout)

    def work(some: slice) -> None:
        complex_spectra[some] = _forward_transform(planes[some], grid, layout)

    _run(work, _parts(len(planes), _RUN // layout.spectrum_bytes), threads)
    return spectra.reshape(*array.shape[:3], -1)


def _complex(spectra: np.ndarray, layout: Layout) -> np.ndarray:
    """Spectra of real and imaginary parts in turn as `(planes, *frequencies)`."""
    return spectra.view(np.result_type(spectra.dtype, 1j)).reshape(-1, *layout.frequencies)


def _forward_transform(planes: np.ndarray, grid: Grid, layout: Layout) -> np.ndarray:
    """The last axis first: of a filter, few rows have anything in them by then."""
    inside, outside = grid.places(layout.span)
    for axis in reversed(layout.axes):
        pixels = np.moveaxis(planes, axis, -1)[..., inside[axis - 1]]
        placed = np.zeros((*pixels.shape[:-1], layout.lengths[axis - 1]), planes.dtype)
        placed[..., outside[axis - 1]] = pixels
        # "ortho", both ways: where the scale is the integer 1, NumPy 2.4 computes float32 in long double, eight times slower.
        transform = np.fft.rfft if axis == layout.axes[-1] else np.fft.fft
        spectra = placed if transform is np.fft.fft and placed.shape[-1] == 1 else transform(placed, norm="ortho")
        planes = np.moveaxis(spectra, -1, axis)
    return planes


def _inverse_transform(planes: np.ndarray, grid: Grid, layout: Layout) -> np.ndarray:
    """The first axis first, and what is not wanted dropped at once."""
    _, outside = grid.places(layout.span)
    for axis in layout.axes[:-1]:
        pixels = np.fft.ifft(planes, axis=axis, norm="ortho") if planes.shape[axis] > 1 else planes
        planes = np.moveaxis(np.moveaxis(pixels, axis, -1)[..., outside[axis - 1]], -1, axis)
    return np.fft.irfft(planes, layout.lengths[-1], norm="ortho")[..., outside[-1]]


def _multiply(left: np.ndarray, right: np.ndarray, total: np.ndarray, conjugate: bool, add: bool, threads: int) -> None:
    """total[g,i,j] = sum_k left[g,i,k] right[g,k,j] (ext/spectra.pxi)."""
    kernel = kernels.compiled(total.dtype).multiply_spectra

    def work(some: slice) -> None:
        kernel(left, right, total, conjugate, add, some.start, some.stop)

    frequencies = total.shape[3] // 2
    block = _RUN * frequencies // (left.nbytes + right.nbytes + total.nbytes)
    _run(work, _parts(frequencies, max(256, block // 256 * 256)), threads)


def _inverse(spectra: np.ndarray, grid: Grid, part: tuple[slice, ...], layout: Layout, threads: int) -> None:
    """Fill a part of the result from its spectra."""
    target, (inside, _) = grid.array[part], grid.places(layout.span)
    planes = _complex(spectra, layout)
    kept = np.empty((len(planes), *target[0, 0, 0][inside].shape), target.dtype)

    def work(some: slice) -> None:
        kept[some] = _inverse_transform(planes[some], grid, layout)
        kept[some] *= sqrt(prod(layout.lengths))

    _run(work, _parts(len(planes), _RUN // layout.spectrum_bytes), threads)
    target[:, :, :, *inside] = kept.reshape(*target.shape[:3], *kept.shape[1:])


def _fill(result: Grid, left: Grid, right: Grid, problem: Problem) -> None:
    """result[g,i,j] = sum_k left[g,i,k] correlated (input gradient: convolved) with right[g,k,j], block by block."""
    layout, real, threads = Layout(problem), result.array.dtype, threads_for(problem.work)
    groups, rows, depths, columns = map(_parts, layout.sizes, layout.block)
    kernels.unrecordable()
    result.array.fill(0)  # some pixels may be read by no window, and there may be no image
    for g, i, j, k in product(groups, rows, columns, depths):
        if k.start == 0:
            shape = [part.stop - part.start for part in (g, i, j)]
            total = memory.empty((*shape, 2 * prod(layout.frequencies)), real)
        a, b = _transform(left, (g, i, k), layout, threads), _transform(right, (g, k, j), layout, threads)
        _multiply(a, b, total, problem.direction != INPUT_GRADIENT, k.start > 0, threads)
        if k.stop == layout.sizes.depth:
            _inverse(total, result, (g, i, j), layout, threads)


def _grid(array: np.ndarray, names: str, order: str, groups: int, before: tuple[int, ...], step: tuple[int, ...]) -> Grid:
    """`array`, whose leading axes are `names` once the axis after "g" is parted into groups, with them in `order`."""
    axis = names.index("g")
    shape = array.shape
    parted = array.reshape(*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
    return Grid(parted.transpose(*map(names.index, order), *range(3, parted.ndim)), before, step)


def _on_x(x: np.ndarray, problem: Problem, order: str) -> Grid:
    before = tuple(before for before, _ in problem.win.padding)
    return _grid(x, "ngc", order, problem.groups, before, (1,) * len(before))


def _on_y(y: np.ndarray, problem: Problem, order: str) -> Grid:
    return _grid(y, "ngm", order, problem.groups, (0,) * len(problem.win.stride), problem.win.stride)


def _on_w(w: np.ndarray, problem: Problem, order: str) -> Grid:
    return _grid(w, "gmc", order, problem.groups, (0,) * len(problem.win.dilation), problem.win.dilation)


# The contract (see `convlayers.functional.plan`)


def refuses(problem: Problem) -> str | None:
    """It computes everything."""
    return None


def cost(problem: Problem, machine: Machine) -> float:
    """Twice the microseconds on one thread: a second thread makes it 1.0 to 1.5 times as fast, and the others 1.9 times.

    Measured with tools/costs.py: 0.6 ns a byte of every spectrum, and a third of the register tile's speed in their products.
    """
    layout = Layout(problem)
    groups, rows, depth, columns = layout.sizes
    products = prod(layout.frequencies) * groups * rows * depth * columns
    measured = 100 + 6e-4 * layout.spectrum_bytes * layout.transforms + 24e-3 * products / machine.gflops
    return 2 * measured


def forward(problem: Problem, relu: bool) -> Forward:
    """y, or max(y, 0)."""

    def run(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        y = memory.empty(problem.y, x.dtype)
        _fill(_on_y(y, problem, "gnm"), _on_x(x, problem, "gnc"), _on_w(w, problem, "gcm"), problem)
        if bias is not None:
            y += bias.reshape(-1, *(1,) * (y.ndim - 2))
        return rectified(y) if relu else y

    return run


def backward_input(problem: Problem) -> Backward:
    """dx."""

    def run(dy: np.ndarray, w: np.ndarray) -> np.ndarray:
        dx = memory.empty(problem.x, dy.dtype)
        _fill(_on_x(dx, problem, "gnc"), _on_y(dy, problem, "gnm"), _on_w(w, problem, "gmc"), problem)
        return dx

    return run


def backward_weight(problem: Problem) -> Backward:
    """dw."""

    def run(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        dw = memory.empty(problem.w, x.dtype)
        _fill(_on_w(dw, problem, "gcm"), _on_x(x, problem, "gcn"), _on_y(dy, problem, "gnm"), problem)
        return dw

    return run
