"""Transposed convolution: against the reference, for every instruction set and thread count."""

import numpy as np
import pytest
from helpers import DTYPES, assert_kernel, random_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from convlayers import functional, kernels
from convlayers.errors import ConfigError, ShapeError
from convlayers.kernels import reference
from convlayers.shapes import transposed_window


def check_transposed(
    images, channels, filters, size, kernel, *, groups=1, dtype="float32", seed=0, algorithm="auto", **options
):
    """Forward and all three gradients of one transposed convolution."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((images, channels, *size)).astype(dtype)
    w = rng.standard_normal((channels, filters // groups, *kernel)).astype(dtype)
    b = rng.standard_normal(filters).astype(dtype)
    output, win, _ = transposed_window(size, kernel, **options)
    dy = rng.standard_normal((images, filters, *output)).astype(dtype)
    y = reference.conv_backward_input(x, w, dy.shape, win, groups) + b.astype(np.float64).reshape(-1, *(1,) * len(size))
    dw, _ = reference.conv_backward_weight(x, dy, w.shape, win, groups)
    dx, db = reference.conv_forward(dy, w, None, win, groups), dy.astype(np.float64).sum(axis=(0, *range(2, dy.ndim)))
    taps, pixels, outputs = np.prod(kernel), images * np.prod(size), images * np.prod(output)
    lengths = [channels // groups * taps + 1] * 2 + [filters // groups * taps, pixels, outputs]
    options |= {"groups": groups, "algorithm": algorithm}

    transpose, backward = (getattr(functional, f"conv_transpose{len(size)}d{way}") for way in ("", "_backward"))

    def compute():
        return *(transpose(x, w, b, **options, relu=relu) for relu in (False, True)), *backward(dy, x, w, **options)

    what = f"x {x.shape}, w {w.shape}, {options}, seed {seed}"
    assert_kernel(compute, [y, np.maximum(y, 0), dx, dw, db], lengths, what, dtype)


@st.composite
def convolutions(draw):
    axes = []
    for _ in range(2):
        kernel, stride, dilation = (draw(st.integers(1, 3)) for _ in range(3))
        before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        least = 1 + before + after  # something of the output is left
        more = draw(st.integers(0, max(stride, dilation) - 1))
        axes.append((kernel, stride, dilation, (before, after), more, draw(st.integers(least, least + 4))))
    names = ("kernel", "stride", "dilation", "padding", "output_padding", "size")
    groups = draw(st.integers(1, 2))
    return {
        "images": draw(st.integers(1, 3)),
        "channels": groups * draw(st.integers(1, 3)),
        "filters": groups * draw(st.integers(1, 4)),
        "groups": groups,
        "dtype": draw(st.sampled_from(DTYPES)),
        "seed": draw(st.integers(0, 99)),
        **dict(zip(names, zip(*axes, strict=True), strict=True)),
    }


@settings(random_cases, max_examples=100)
@given(convolutions())
def test_random_transposed_convolutions(case):
    check_transposed(**case)


TRANSPOSED = {
    "one pixel": (1, 1, 1, (1, 1), (1, 1), {}),
    "one pixel to an image": (3, 5, 4, (1, 1), (4, 4), {}),
    "nothing but output padding behind": (2, 2, 3, (2, 3), (1, 1), {"stride": 3, "output_padding": 2}),
    "output padding over the stride": (2, 2, 3, (3, 2), (2, 2), {"dilation": 4, "output_padding": 3}),
    "same, kernel over the stride": (2, 2, 3, (4, 3), (5, 4), {"stride": 2, "padding": "same"}),
    "same, kernel under the stride": (2, 2, 3, (4, 3), (1, 2), {"stride": 3, "padding": "same"}),
    "cropped by uneven padding": (2, 2, 3, (4, 5), (4, 3), {"stride": 2, "padding": ((3, 0), (1, 2))}),
    "depthwise": (2, 17, 17, (5, 9), (4, 4), {"stride": 2, "padding": 1, "groups": 17}),
    "two filters each": (2, 5, 10, (6, 7), (3, 3), {"padding": 1, "groups": 5}),
    "a signal": (2, 4, 6, (9,), (4,), {"stride": 3, "padding": ((2, 1),), "groups": 2, "output_padding": 2}),
    "a dilated signal": (2, 3, 2, (5,), (3,), {"dilation": 3, "output_padding": 1}),
    "a volume": (2, 4, 6, (3, 2, 4), (2, 3, 2), {"stride": (2, 1, 2), "padding": (0, 1, 1), "groups": 2}),
    "a dilated volume": (1, 2, 3, (2, 3, 2), (2, 2, 3), {"dilation": (3, 1, 2), "output_padding": (2, 0, 1)}),
    "by tiles": (2, 4, 5, (9, 7), (3, 3), {"padding": 1, "algorithm": "winograd"}),
    "by transforms": (2, 4, 5, (9, 7), (6, 5), {"stride": 2, "output_padding": 1, "algorithm": "fft"}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TRANSPOSED)
def test_table_of_transposed_shapes(name, dtype):
    *sizes, options = TRANSPOSED[name]
    check_transposed(*sizes, dtype=dtype, **options)


def test_transposed_convolution_is_the_adjoint():
    """`<conv(x), y> = <x, conv_transpose(y)>`, exactly, over integers."""
    rng = np.random.default_rng(1)
    x, y = rng.integers(-4, 5, (2, 6, 11, 8)).astype(float), rng.integers(-4, 5, (2, 4, 5, 8)).astype(float)
    w, options = rng.integers(-4, 5, (4, 3, 3, 3)).astype(float), {"stride": (2, 1), "padding": (0, 1), "groups": 2}
    assert (functional.conv2d(x, w, **options) * y).sum() == (x * functional.conv_transpose2d(y, w, **options)).sum()


@pytest.mark.parametrize("isa", kernels.available())
def test_a_not_finite_pixel_reaches_its_own_window_alone(isa):
    x = np.zeros((1, 1, 5, 9), np.float32)
    x[0, 0, 2, 4] = np.nan
    with kernels.using(isa=isa):
        nan = np.isnan(functional.conv_transpose2d(x, np.ones((1, 1, 3, 3)), [1.0], stride=2, algorithm="direct"))[0, 0]
    assert nan[4:7, 8:11].all()
    assert nan.sum() == 9


def test_an_empty_batch():
    x, w = np.zeros((0, 2, 4, 4), np.float32), np.ones((2, 3, 3, 3), np.float32)
    y = functional.conv_transpose2d(x, w, np.ones(3))
    assert y.shape == (0, 3, 6, 6)
    dx, dw, db = functional.conv_transpose2d_backward(y, x, w)
    assert (dx.shape, dw.shape, dw.any(), db.tolist()) == (x.shape, w.shape, False, [0, 0, 0])


X, W = np.ones((1, 4, 3, 3), np.float32), np.ones((4, 2, 3, 3), np.float32)


def transposed(x=X, w=W, b=None, **options):
    return functional.conv_transpose2d(x, w, b, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: transposed(X[0]), ShapeError, "conv_transpose2d: x must have 4 axes"),
        (lambda: transposed(w=W[:2]), ShapeError, r"conv_transpose2d: weight \(2, 2, 3, 3\) is for 2 input channels; x has 4"),
        (lambda: transposed(groups=3), ShapeError, "conv_transpose2d: groups 3 must divide the 4 input channels"),
        (lambda: transposed(groups=0), ConfigError, "conv_transpose2d: groups must be at least 1; got 0"),
        (
            lambda: transposed(b=[1.0]),
            ShapeError,
            r"conv_transpose2d: b must have shape \(2,\), one value a filter; got \(1,\)",
        ),
        (lambda: transposed(stride=2, output_padding=2), ConfigError, "output_padding 2 must be less than the stride 2 or the"),
        (lambda: transposed(output_padding=-1), ConfigError, "conv_transpose2d: output_padding must be at least 0; got -1"),
        (lambda: transposed(padding=3), ShapeError, "conv_transpose2d: padding 3 leaves nothing of the output: 3x3 pixels"),
        (
            lambda: functional.conv_transpose2d_backward(X, X, W),
            ShapeError,
            "dy must have the output's",
        ),
        (lambda: functional.conv_transpose2d_backward_input(X, W, (1, 2)), ShapeError, "x_shape must have 4 axes; got"),
    ],
)
def test_refusals_of_transposed_convolutions(call, error, message):
    with pytest.raises(error, match=message):
        call()
