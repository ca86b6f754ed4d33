"""Every output size and every padding, computed in this one place.

Sizes are counted in pixels. One axis at a time: an input of `size` pixels, a window of `kernel` taps `dilation` apart,
moved by `stride`, `before` and `after` pixels of padding:

    output = floor((size + before + after - dilation (kernel - 1) - 1) / stride) + 1

with `ceil` for `floor` under `ceil_mode`, less a last window that would start in the padding behind the input
(PyTorch's rule). `"same"` is ONNX's SAME_UPPER: `output = ceil(size / stride)`, the odd pixel of padding behind.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from operator import index
from typing import Any, NamedTuple

from .errors import ArrayTypeError, ConfigError, ConvlayersError, ShapeError

IntOrSequence = int | Sequence[int]
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]
Pairs = tuple[tuple[int, int], ...]
_LARGEST = 2**31 - 1  # what the kernels count with


class Window(NamedTuple):
    """A window over the spatial axes, with every default resolved. All sizes in pixels, one entry an axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Pairs
    output: tuple[int, ...]


def _is_int(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    try:
        index(value)
    except TypeError:
        return False
    return True


def per_axis(value: Any, rank: int, name: str, *, minimum: int = 1) -> tuple[int, ...]:
    """`value` as `rank` integers of at least `minimum`; a single int serves every axis."""
    values = (value,) * rank if _is_int(value) else value
    if isinstance(values, str) or not isinstance(values, Sequence) or not all(_is_int(v) for v in values):
        raise ArrayTypeError(f"{name} is an int or {rank} ints, one per axis; got {value!r}")
    if len(values) != rank:
        raise ConfigError(f"{name} is an int or {rank} ints, one per axis; got {value!r}")
    ints = tuple(index(v) for v in values)
    if min(ints) < minimum:
        raise ConfigError(f"{name} must be at least {minimum}; got {value!r}")
    if max(ints) > _LARGEST:
        raise ConfigError(f"{name} must be at most {_LARGEST}; got {value!r}")
    return ints


def positive(value: int, name: str, *, minimum: int = 1) -> int:
    """`value` as an int of at least `minimum`."""
    if not _is_int(value):
        raise ArrayTypeError(f"{name} is an int; got {value!r}")
    if index(value) < minimum:
        raise ConfigError(f"{name} must be at least {minimum}; got {value!r}")
    return index(value)


def padding_rule(value: Any, rank: int) -> str | Pairs:
    """`padding` as `"same"`, or as one `(before, after)` pair an axis."""
    if isinstance(value, str):
        if value not in ("same", "valid"):
            raise ConfigError(f'padding is "same", "valid", an int, one int per axis or one pair per axis; got {value!r}')
        return "same" if value == "same" else ((0, 0),) * rank
    if isinstance(value, Sequence) and any(isinstance(v, Sequence) for v in value):
        if len(value) != rank:
            raise ConfigError(f"padding needs {rank} pairs, one per axis; got {value!r}")
        pairs = [per_axis(v, 2, "a padding pair", minimum=0) for v in value]
        return tuple((before, after) for before, after in pairs)
    return tuple((v, v) for v in per_axis(value, rank, "padding", minimum=0))


def padded(size: Sequence[int], pairs: Pairs, mode: str) -> tuple[int, ...]:
    """The size of an image with a border of `pairs`; a reflection does not reach beyond the image."""
    for axis, (pixels, pair) in enumerate(zip(size, pairs, strict=True)):
        if mode == "reflect" and max(pair) >= pixels:
            raise ShapeError(f"a reflection of {pixels} pixels has at most {pixels - 1}; got padding {pair} along axis {axis}")
    return tuple(pixels + sum(pair) for pixels, pair in zip(size, pairs, strict=True))


def reshaped(shape: Sequence[int], target: Sequence[int]) -> tuple[int, ...]:
    """`target` with the one size that is -1 computed, for a sample of `shape`."""
    values, known = prod(shape), prod(n for n in target if n != -1)
    if values % known or (values != known and -1 not in target):
        raise ShapeError(f"a sample of shape {tuple(shape)} holds {values} values; they do not fit {tuple(target)}")
    return tuple(values // known if n == -1 else n for n in target)


def _same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def _axis_output(size: int, kernel: int, stride: int, dilation: int, pad: tuple[int, int], ceil_mode: bool) -> int:
    room = size + sum(pad) - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return room // stride + 1 if room >= 0 else 0
    # A last window may hang over the end, unless it would start in the padding behind the input.
    output = -(-room // stride) + 1
    return output - ((output - 1) * stride >= size + pad[0])


def _cross(values: Sequence[int]) -> str:
    return "x".join(map(str, values))


def _window(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    rule: str | Pairs,
    ceil_mode: bool,
) -> Window:
    axes = list(zip(size, kernel, stride, dilation, strict=True))
    padding = rule if not isinstance(rule, str) else tuple(_same(*axis) for axis in axes)
    output = tuple(_axis_output(*axis, pad, ceil_mode) for axis, pad in zip(axes, padding, strict=True))
    if min(output) < 1:
        span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        what = f"kernel {_cross(kernel)}" + (f" with dilation {_cross(dilation)}" if max(dilation) > 1 else "")
        spans = f" (it spans {_cross(span)})" if max(dilation) > 1 else ""
        padded = [s + sum(p) for s, p in zip(size, padding, strict=True)]
        raise ShapeError(
            f"{what}{spans} does not fit the {_cross(size)} input"
            + (f", {_cross(padded)} with padding" if padded != list(size) else "")
            + "; pad it or use a smaller kernel"
        )
    return Window(kernel, stride, dilation, padding, output)


def window(
    size: Sequence[int],
    kernel: IntOrSequence,
    *,
    stride: IntOrSequence | None = None,
    dilation: IntOrSequence = 1,
    padding: Padding = 0,
    ceil_mode: bool = False,
) -> Window:
    """A convolution's or a pooling's window over an input of `size` pixels; `stride=None` means the kernel's size.

    Raises `ShapeError` where no window fits, `ConfigError` for a value out of range, `ArrayTypeError` for a wrong type.
    """
    given = (kernel, stride, dilation, padding)
    # Lists, as JSON has them, cannot be looked up; tuples can.
    for hashable in (tuple, frozen):
        try:
            return _cached_window(tuple(size), *hashable(given), ceil_mode)
        except ConvlayersError:
            raise
        except TypeError:
            continue
    return _cached_window.__wrapped__(tuple(size), *given, ceil_mode)


def frozen(value: Any) -> Any:
    """`value` with tuples for lists, all the way down: what can be looked up."""
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


@lru_cache(maxsize=4096, typed=True)
def _cached_window(size: tuple[int, ...], kernel: Any, stride: Any, dilation: Any, padding: Any, ceil_mode: bool) -> Window:
    """Checking the arguments takes 10 us, a quarter of a small convolution; a network asks the same again at every step."""
    rank = len(size)
    sizes = per_axis(kernel, rank, "kernel_size")
    strides = sizes if stride is None else per_axis(stride, rank, "stride")
    dilations = per_axis(dilation, rank, "dilation")
    return _window(size, sizes, strides, dilations, padding_rule(padding, rank), bool(ceil_mode))


class Transposed(NamedTuple):
    """A transposed convolution with every default resolved; `window` is that of the convolution from output to input."""

    output: tuple[int, ...]
    window: Window
    output_padding: tuple[int, ...]


def transposed_window(
    size: Sequence[int],
    kernel: IntOrSequence,
    *,
    stride: IntOrSequence = 1,
    padding: Padding = 0,
    output_padding: IntOrSequence = 0,
    dilation: IntOrSequence = 1,
) -> Transposed:
    """A transposed convolution's window over an input of `size` pixels.

        output = (size - 1) stride + dilation (kernel - 1) + 1 - before - after + output_padding

    `"same"` is ONNX's SAME_UPPER: `output = size * stride`, the odd pixel of padding behind. `output_padding`, which says which
    of the outputs is meant that a convolution would make this input of, is less than the stride or the dilation.
    """
    rank = len(size)
    kernels, strides = per_axis(kernel, rank, "kernel_size"), per_axis(stride, rank, "stride")
    dilations, extra = per_axis(dilation, rank, "dilation"), per_axis(output_padding, rank, "output_padding", minimum=0)
    for more, steps, apart in zip(extra, strides, dilations, strict=True):
        if more >= max(steps, apart):
            raise ConfigError(f"output_padding {more} must be less than the stride {steps} or the dilation {apart}")
    spans = [d * (k - 1) + 1 for k, d in zip(kernels, dilations, strict=True)]
    rule = padding_rule(padding, rank)
    if isinstance(rule, str):
        if any(extra):
            raise ConfigError(f'output_padding is 0 where padding="same" says how large the output is; got {output_padding!r}')
        # A kernel that does not reach the next stride's pixels leaves some to be added.
        extra = tuple(max(s - span, 0) for s, span in zip(strides, spans, strict=True))
        excess = [max(span - s, 0) for s, span in zip(strides, spans, strict=True)]
        rule = tuple((e // 2, e - e // 2) for e in excess)
    axes = zip(size, strides, spans, rule, extra, strict=True)
    output = tuple((n - 1) * s + span - sum(pad) + more for n, s, span, pad, more in axes)
    if min(output) < 1:
        raise ShapeError(
            f"padding {padding!r} leaves nothing of the output: {_cross(size)} pixels, stride {_cross(strides)} "
            f"and kernel {_cross(kernels)} give {_cross(output)}; use less padding"
        )
    return Transposed(output, Window(kernels, strides, dilations, rule, tuple(size)), extra)


@lru_cache(maxsize=4096)
@lru_cache(maxsize=4096)
def check_pool(size: tuple[int, ...], win: Window) -> None:
    """Refuse a pooling in which some window holds padding alone: it has no maximum and no average."""
    for axis, (pixels, kernel, stride, dilation, pad, output) in enumerate(zip(size, *win, strict=True)):
        for p in range(output):
            first = p * stride - pad[0]
            if not any(0 <= first + r * dilation < pixels for r in range(kernel)):
                raise ShapeError(
                    f"window {p} of axis {axis} holds padding alone (input {pixels}, kernel {kernel}, stride {stride}, "
                    f"dilation {dilation}, padding {pad}); use less padding"
                )


def extents(size: tuple[int, ...], win: Window) -> Pairs:
    """Pixels to add before and after each axis for every window to lie inside; `ceil_mode` reaches past the padding."""
    ends = [
        (o - 1) * s + d * (k - 1) + 1 - before
        for o, s, d, k, (before, _) in zip(win.output, win.stride, win.dilation, win.kernel, win.padding, strict=True)
    ]
    return tuple((before, max(end - n, 0)) for (before, _), end, n in zip(win.padding, ends, size, strict=True))


def cells(size: tuple[int, ...], output: tuple[int, ...]) -> list[list[tuple[int, int]]]:
    """The windows of adaptive pooling: for each axis, where each begins and ends.

    Window i of `outputs` over `size` pixels is `floor(i size / outputs)` to `ceil((i + 1) size / outputs)`, as in PyTorch.
    """
    if any(o > n for o, n in zip(output, size, strict=True)):
        raise ShapeError(f"output_size {_cross(output)} is larger than the {_cross(size)} input; use at most its size")
    return [[(i * n // o, -(-(i + 1) * n // o)) for i in range(o)] for n, o in zip(size, output, strict=True)]


def conv_groups(in_channels: int, out_channels: int, groups: int) -> int:
    """Input channels of one group; both channel counts must divide by `groups`."""
    if min(in_channels, out_channels) < 1:
        raise ShapeError(f"needs at least one input channel and one output channel; got {in_channels} and {out_channels}")
    if in_channels % groups or out_channels % groups:
        raise ShapeError(f"groups {groups} must divide the {in_channels} input channels and the {out_channels} output channels")
    return in_channels // groups


def sliced(size: int, start: int, end: int, step: int) -> range:
    """What ONNX `Slice` takes of an axis: a negative start or end counts from behind, one beyond the axis stops at its edge."""
    start, end = (n + size if n < 0 else n for n in (start, end))
    low, high = (0, size) if step > 0 else (-1, size - 1)
    return range(min(max(start, 0), high), min(max(end, low), high), step)


def broadcast(shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The shape of samples that meet value by value: aligned at their last axes, an axis of size 1 meets any size."""
    rank = max(map(len, shapes))
    axes = list(zip(*((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes), strict=True))
    if any(len({*sizes} - {1}) > 1 for sizes in axes):
        listed = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ShapeError(f"takes inputs along each axis, counted from the last, of one size or of size 1; got {listed}")
    return tuple(map(max, axes))


def features(shape: Sequence[int]) -> int:
    """How many values a sample of this shape holds."""
    return prod(shape)
