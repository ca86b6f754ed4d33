"""Every kernel as plain NumPy in float64: the judge of the compiled ones, and where the mathematics is read.

Letters: `N C *size` the input, `M` filters of `*kernel` taps, `*output` the output's size, `g` groups. Every function
serves any number of spatial axes; `win` is a `convlayers.shapes.Window`. Nothing here is optimised.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

import numpy as np

from ..shapes import Window

_FAR = np.finfo(np.float64)


def _extended(size: tuple[int, ...], win: Window) -> tuple[tuple[int, int], ...]:
    """Pixels to add before and after each axis so that every window lies inside (ceil_mode reaches past the padding)."""
    ends = [
        (o - 1) * s + d * (k - 1) + 1 - before
        for o, s, d, k, (before, _) in zip(win.output, win.stride, win.dilation, win.kernel, win.padding, strict=True)
    ]
    return tuple((before, max(end - n, 0)) for (before, _), end, n in zip(win.padding, ends, size, strict=True))


def _padded(x: np.ndarray, win: Window, value: float) -> np.ndarray:
    return np.pad(x.astype(np.float64), ((0, 0), (0, 0), *_extended(x.shape[2:], win)), constant_values=value)


def _taps(win: Window) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Each tap of the window, in row order, and the slice of the padded input that it reads for all outputs."""
    for tap in product(*map(range, win.kernel)):
        starts = [t * d for t, d in zip(tap, win.dilation, strict=True)]
        yield tap, tuple(slice(a, a + (o - 1) * s + 1, s) for a, o, s in zip(starts, win.output, win.stride, strict=True))


def patches(x: np.ndarray, win: Window, value: float = 0.0) -> np.ndarray:
    """The windows of `x`, padded with `value`, as `(N, C, taps, outputs)`."""
    padded = _padded(x, win, value)
    columns = [padded[:, :, *where].reshape(*x.shape[:2], prod(win.output)) for _, where in _taps(win)]
    return np.stack(columns, axis=2)


def fold(columns: np.ndarray, shape: tuple[int, ...], win: Window) -> np.ndarray:
    """The transpose of `patches`: adds `(N, C, taps, outputs)` back into an array of `shape`; padding is dropped."""
    extra = _extended(shape[2:], win)
    padded = np.zeros((*shape[:2], *(n + sum(e) for n, e in zip(shape[2:], extra, strict=True))))
    for t, (_, where) in enumerate(_taps(win)):
        padded[:, :, *where] += columns[:, :, t].reshape(*shape[:2], *win.output)
    inside = tuple(slice(before, before + n) for (before, _), n in zip(extra, shape[2:], strict=True))
    return padded[:, :, *inside]


def _grouped(array: np.ndarray, axis: int, groups: int) -> np.ndarray:
    shape = array.shape
    return array.reshape(*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])


def conv_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray | None, win: Window, groups: int) -> np.ndarray:
    """`y[n,m,p] = b[m] + sum_cr x[n,c,p s + r d - pad] w[m,c,r]`; x `(N,C,*size)`, w `(M,C/g,*kernel)`."""
    columns = _grouped(patches(x, win), 1, groups)
    filters = _grouped(w.astype(np.float64).reshape(*w.shape[:2], -1), 0, groups)
    y = np.einsum("ngcrp,gmcr->ngmp", columns, filters, optimize=True)
    y = y.reshape(len(x), len(w), *win.output)
    return y if b is None else y + b.astype(np.float64).reshape(-1, *(1,) * len(win.output))


def conv_backward_input(dy: np.ndarray, w: np.ndarray, shape: tuple[int, ...], win: Window, groups: int) -> np.ndarray:
    """`dx = fold(sum_m dy[n,m,p] w[m,c,r])`: each product goes back to the pixel that it was read from."""
    outputs = _grouped(dy.astype(np.float64).reshape(*dy.shape[:2], prod(win.output)), 1, groups)
    filters = _grouped(w.astype(np.float64).reshape(*w.shape[:2], -1), 0, groups)
    columns = np.einsum("ngmp,gmcr->ngcrp", outputs, filters, optimize=True)
    return fold(columns.reshape(shape[0], shape[1], prod(win.kernel), prod(win.output)), shape, win)


def conv_backward_weight(
    dy: np.ndarray, x: np.ndarray, shape: tuple[int, ...], win: Window, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """`dw[m,c,r] = sum_np dy[n,m,p] x[n,c,p s + r d - pad]` and `db[m] = sum_np dy[n,m,p]`; `shape` is that of w."""
    outputs = dy.astype(np.float64).reshape(*dy.shape[:2], prod(win.output))
    dw = np.einsum("ngcrp,ngmp->gmcr", _grouped(patches(x, win), 1, groups), _grouped(outputs, 1, groups), optimize=True)
    return dw.reshape(shape), outputs.sum(axis=(0, 2))


def max_pool_forward(x: np.ndarray, win: Window) -> tuple[np.ndarray, np.ndarray]:
    """The maximum of each window, and the tap that holds it, counted in row order; the first of equals, NaN before all."""
    columns = patches(x, win, -np.inf)
    # Padding must lose even against an input of minus infinity.
    real = patches(np.ones((1, 1, *x.shape[2:])), win) > 0
    ranked = np.where(real, np.where(np.isnan(columns), np.inf, np.maximum(columns, _FAR.min)), -np.inf)
    index = np.where(np.isnan(columns).any(axis=2), np.isnan(columns).argmax(axis=2), ranked.argmax(axis=2))
    y = np.take_along_axis(columns, index[:, :, None], axis=2)[:, :, 0]
    return y.reshape(*x.shape[:2], *win.output), index.reshape(*x.shape[:2], *win.output)


def max_pool_backward(dy: np.ndarray, index: np.ndarray, shape: tuple[int, ...], win: Window) -> np.ndarray:
    """`dy` goes to the tap that held the maximum."""
    taps = np.arange(prod(win.kernel))[:, None]
    chosen = index.reshape(*dy.shape[:2], 1, prod(win.output)) == taps
    return fold(chosen * dy.astype(np.float64).reshape(*dy.shape[:2], 1, prod(win.output)), shape, win)


def pool_counts(size: tuple[int, ...], win: Window, count_include_pad: bool) -> np.ndarray:
    """The divisor of each average, `(*output)`: real pixels, and padding too under `count_include_pad`."""
    counts = np.ones((1,) * len(size))
    for axis, (n, k, s, (before, after), output) in enumerate(
        zip(size, win.kernel, win.stride, win.padding, win.output, strict=True)
    ):
        start = np.arange(output) * s - before
        first, last = (-before, n + after) if count_include_pad else (0, n)
        covered = np.minimum(start + k, last) - np.maximum(start, first)
        counts = counts * covered.reshape([-1 if a == axis else 1 for a in range(len(size))])
    return counts


def avg_pool_forward(x: np.ndarray, win: Window, count_include_pad: bool) -> np.ndarray:
    """The sum of each window over its count."""
    sums = patches(x, win).sum(axis=2).reshape(*x.shape[:2], *win.output)
    return sums / pool_counts(x.shape[2:], win, count_include_pad)


def avg_pool_backward(dy: np.ndarray, shape: tuple[int, ...], win: Window, count_include_pad: bool) -> np.ndarray:
    """`dy` over the count, to every pixel of the window."""
    share = dy.astype(np.float64) / pool_counts(shape[2:], win, count_include_pad)
    share = share.reshape(*dy.shape[:2], 1, prod(win.output))
    return fold(np.broadcast_to(share, (*dy.shape[:2], prod(win.kernel), share.shape[-1])), shape, win)


def global_avg_pool_forward(x: np.ndarray) -> np.ndarray:
    """The mean of each plane."""
    return x.mean(axis=(2, 3), keepdims=True, dtype=np.float64)


def global_avg_pool_backward(dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`dy` over the plane's size, to every pixel."""
    return np.broadcast_to(dy.astype(np.float64) / prod(shape[2:]), shape)


def gemm(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """`a @ b + bias`, the bias along the last axis."""
    product_ = a.astype(np.float64) @ b.astype(np.float64)
    return product_ if bias is None else product_ + bias.astype(np.float64)


def relu_forward(x: np.ndarray) -> np.ndarray:
    """`max(x, 0)`; NaN stays NaN."""
    return np.maximum(x.astype(np.float64), 0.0)


def relu_backward(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`dy` where the output was positive, else 0."""
    return np.where(y > 0, dy.astype(np.float64), 0.0)


def _channels(values: np.ndarray) -> np.ndarray:
    """One value a channel, shaped to meet `(N, C, H, W)`."""
    return values.astype(np.float64)[:, None, None]


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance of each channel, `(C,)` each."""
    wide = x.astype(np.float64)
    return wide.mean(axis=(0, 2, 3)), wide.var(axis=(0, 2, 3))


def batch_norm_forward(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, var: np.ndarray, eps: float
) -> np.ndarray:
    """`(x - mean) / sqrt(var + eps) weight + bias`, channel by channel."""
    deviation = (x - _channels(mean)) / np.sqrt(_channels(var) + eps)
    return deviation * _channels(weight) + _channels(bias)


def batch_norm_backward(
    dy: np.ndarray, x: np.ndarray, weight: np.ndarray, mean: np.ndarray, var: np.ndarray, eps: float, training: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(dx, dw, db)`; in training mean and variance are those of x and change with it, else they are constants."""
    root = np.sqrt(_channels(var) + eps)
    deviation = (x - _channels(mean)) / root
    dw, db = (dy * deviation).sum(axis=(0, 2, 3)), dy.astype(np.float64).sum(axis=(0, 2, 3))
    through = dy.astype(np.float64)
    if training:
        through = dy - (_channels(db) + deviation * _channels(dw)) * (x.shape[1] / x.size)
    return through * _channels(weight) / root, dw, db


def add(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The sum of arrays of one shape."""
    return np.sum([a.astype(np.float64) for a in arrays], axis=0)


def column_sums(x: np.ndarray) -> np.ndarray:
    """The sums over the rows."""
    return x.astype(np.float64).sum(axis=0)


def cross_entropy(z: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """`mean(log sum_j e^z_j - z_label)` over logits `(N, classes, ...)`; `dz = (softmax(z) - onehot) / labels.size`."""
    wide = z.astype(np.float64)
    wide = wide - wide.max(axis=1, keepdims=True)
    powers = np.exp(wide)
    total = powers.sum(axis=1, keepdims=True)
    chosen = np.expand_dims(labels, 1)
    value = (np.log(total) - np.take_along_axis(wide, chosen, axis=1)).mean()
    onehot = np.arange(z.shape[1]).reshape(-1, *(1,) * (z.ndim - 2)) == chosen
    return float(value), (powers / total - onehot) / labels.size
