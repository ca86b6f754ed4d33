"""Output sizes and paddings, against PyTorch and against what a window can be."""

import numpy as np
import pytest
from helpers import random_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from convlayers.errors import ArrayTypeError, ConfigError, ConvlayersError, ShapeError
from convlayers.shapes import (
    check_pool,
    conv_groups,
    features,
    padding_rule,
    per_axis,
    positive,
    transposed_window,
    window,
)

small = st.integers(1, 6)


@settings(random_cases, max_examples=300)
@given(st.integers(1, 30), small, small, small, st.integers(0, 5), st.integers(0, 5))
def test_output_counts_the_windows_that_fit(size, kernel, stride, dilation, before, after):
    span = dilation * (kernel - 1) + 1
    starts = [s for s in range(-before, size + after - span + 1) if (s + before) % stride == 0]
    if starts:
        win = window((size,), kernel, stride=stride, dilation=dilation, padding=((before, after),))
        assert win.output == (len(starts),)
    else:
        with pytest.raises(ShapeError, match="does not fit"):
            window((size,), kernel, stride=stride, dilation=dilation, padding=((before, after),))


@settings(random_cases, max_examples=200)
@given(st.integers(1, 30), small, small, small)
def test_same_gives_a_pixel_a_stride_and_pads_behind(size, kernel, stride, dilation):
    win = window((size,), kernel, stride=stride, dilation=dilation, padding="same")
    ((before, after),) = win.padding
    assert win.output == (-(-size // stride),)
    assert after - before in (0, 1)


@settings(random_cases, max_examples=200)
@given(st.integers(1, 20), small, small, st.integers(0, 3), st.booleans())
def test_pooling_sizes_as_in_torch(size, kernel, stride, padding, ceil_mode):
    torch = pytest.importorskip("torch", reason="PyTorch is the judge where it is installed")
    padding = min(padding, kernel // 2)  # what PyTorch takes
    how = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    try:
        expected = tuple(torch.nn.functional.max_pool1d(torch.zeros(1, 1, size), kernel, **how).shape[2:])
    except RuntimeError:
        with pytest.raises(ShapeError):
            window((size,), kernel, **how)
    else:
        assert window((size,), kernel, **how).output == expected


def test_defaults():
    win = window((9, 8), 3)
    assert win == ((3, 3), (3, 3), (1, 1), ((0, 0), (0, 0)), (3, 2))
    assert window((9, 8), (3, 2), stride=[1, 2]).output == (7, 4)
    assert window((5, 5), 3, stride=1, padding="valid").output == (3, 3)
    assert window((5, 5), 3, stride=1, padding=[1, 2]).padding == ((1, 1), (2, 2))
    assert window((5, 5), np.int64(3), stride=np.int32(1)).kernel == (3, 3)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ConfigError),
        (-1, ConfigError),
        ((1, 2, 3), ConfigError),
        ((), ConfigError),
        (True, ArrayTypeError),
        (1.5, ArrayTypeError),
        ("3", ArrayTypeError),
        (None, ArrayTypeError),
        ((1, 2.0), ArrayTypeError),
        ((1, False), ArrayTypeError),
        (np.array([3, 3]), ArrayTypeError),
        (np.array(2.5), ArrayTypeError),
        (np.True_, ArrayTypeError),
    ],
)
def test_sizes_that_are_none(value, error):
    with pytest.raises(error, match="kernel_size"):
        window((8, 8), value)


@pytest.mark.parametrize(
    "value", [-1, (1, -2), ((0, -1), (0, 0)), "full", ((1, 1),), ((1, 1, 1), (0, 0)), (1, 2, 3), 0.5, None, ((1, "a"), (0, 0))]
)
def test_paddings_that_are_none(value):
    with pytest.raises(ConvlayersError, match="padding"):
        padding_rule(value, 2)


def test_kernel_too_large_says_what_would_help():
    with pytest.raises(ShapeError, match=r"^kernel 5x5 does not fit the 3x3 input; pad it or use a smaller kernel$"):
        window((3, 3), 5)
    with pytest.raises(ShapeError, match=r"^kernel 3x3 with dilation 4x4 \(it spans 9x9\) does not fit the 5x6 input, 7x8"):
        window((5, 6), 3, dilation=4, padding=1)


@settings(random_cases, max_examples=200)
@given(st.integers(1, 20), small, small, small, st.integers(0, 3), st.integers(0, 5))
def test_transposed_sizes_as_in_torch(size, kernel, stride, dilation, padding, more):
    torch = pytest.importorskip("torch", reason="PyTorch is the judge where it is installed")
    how = {"stride": stride, "padding": padding, "output_padding": more, "dilation": dilation}
    x, w = torch.zeros(1, 1, size), torch.zeros(1, 1, kernel)
    try:
        expected = tuple(torch.nn.functional.conv_transpose1d(x, w, **how).shape[2:])
    except RuntimeError:
        with pytest.raises(ConvlayersError, match=r"output_padding \d must be less|leaves nothing"):
            transposed_window((size,), kernel, **how)
    else:
        assert transposed_window((size,), kernel, **how).output == expected


@settings(random_cases, max_examples=200)
@given(st.integers(1, 30), small, small, small)
def test_same_of_a_transposed_convolution_is_that_of_its_convolution(size, kernel, stride, dilation):
    """An image of `size * stride` pixels, convolved with "same", gives `size`: the same windows in the same places."""
    output, win, more = transposed_window((size,), kernel, stride=stride, dilation=dilation, padding="same")
    assert output == (size * stride,)
    assert more == (max(stride - dilation * (kernel - 1) - 1, 0),)
    assert win == window(output, kernel, stride=stride, dilation=dilation, padding="same")


def test_transposed_sizes_that_are_none():
    with pytest.raises(ConfigError, match=r"^output_padding 2 must be less than the stride 2 or the dilation 1$"):
        transposed_window((4, 4), 3, stride=2, output_padding=(1, 2))
    with pytest.raises(ConfigError, match=r'^output_padding is 0 where padding="same" says how large the output is; got 1$'):
        transposed_window((4, 4), 3, stride=2, padding="same", output_padding=1)
    message = r"^padding 2 leaves nothing of the output: 1x4 pixels, stride 2x2 and kernel 3x3 give -1x5; use less padding$"
    with pytest.raises(ShapeError, match=message):
        transposed_window((1, 4), 3, stride=2, padding=2)


def test_a_window_of_padding_alone_has_no_maximum():
    with pytest.raises(ShapeError, match=r"window 0 of axis 1 holds padding alone .*use less padding"):
        check_pool((4, 4), window((4, 4), 2, padding=(0, 2)))
    with pytest.raises(ShapeError, match="holds padding alone"):
        check_pool((2, 2), window((2, 2), 2, dilation=3, padding=1))
    check_pool((4, 4), window((4, 4), 3, padding=2, stride=2))


def test_small_rules():
    assert conv_groups(6, 4, 2) == 3
    with pytest.raises(ShapeError, match="groups 4 must divide the 6 input channels and the 8 output channels"):
        conv_groups(6, 8, 4)
    assert positive(np.int64(3), "n") == 3
    with pytest.raises(ConfigError, match="n must be at least 1; got 0"):
        positive(0, "n")
    with pytest.raises(ArrayTypeError, match=r"n is an int; got 2\.0"):
        positive(2.0, "n")
    assert features((3, 4, 5)) == 60
    assert per_axis(4, 3, "n") == (4, 4, 4)
