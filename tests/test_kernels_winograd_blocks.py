"""Kernels larger than 3 x 3 by blocks of 3 x 3 taps: against the reference, for every instruction set and thread count."""

import numpy as np
import pytest
from helpers import DTYPES, assert_kernel, beside, edges, random_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from convlayers import functional, kernels
from convlayers.errors import ConfigError
from convlayers.functional.algorithms import winograd_blocks
from convlayers.kernels import reference
from convlayers.shapes import window

ISAS = kernels.available()


def check_blocks(images, channels, filters, size, kernel, *, padding=0, groups=1, dtype="float32", seed=0):
    """Forward with and without ReLU, input gradient and weight gradient."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((images, channels, *size)).astype(dtype)
    w = rng.standard_normal((filters, channels // groups, *kernel)).astype(dtype)
    b = rng.standard_normal(filters).astype(dtype)
    win = window(size, kernel, stride=1, padding=padding)
    dy = rng.standard_normal((images, filters, *win.output)).astype(dtype)
    how = {"padding": padding, "groups": groups, "algorithm": "winograd"}
    y = reference.conv_forward(x, w, b, win, groups)
    expected = [y, np.maximum(y, 0), reference.conv_backward_input(dy, w, x.shape, win, groups)]
    expected.append(reference.conv_backward_weight(dy, x, w.shape, win, groups)[0])
    forward = w[0].size + 1
    lengths = [forward, forward, w.size // channels, dy[:, 0].size]

    def compute():
        return (
            functional.conv2d(x, w, b, **how),
            functional.conv2d(x, w, b, **how, relu=True),
            functional.conv2d_backward_input(dy, w, x.shape, **how),
            functional.conv2d_backward_weight(dy, x, w.shape, **how)[0],
        )

    assert_kernel(compute, expected, lengths, f"x {x.shape}, w {w.shape}, {how}, seed {seed}", dtype)


@st.composite
def blocks(draw):
    """Kernels and images of every remainder by 3, lines of tiles beside the edges of vectors, filters beside those of tiles."""
    vector, rows = edges(draw(st.sampled_from(ISAS)), dtype := draw(st.sampled_from(DTYPES)))
    kernel = draw(st.tuples(st.integers(2, 9), st.integers(2, 9)).filter(lambda k: max(k) > 3 and k != (5, 5)))
    padding = draw(st.tuples(*[st.tuples(st.integers(0, r + 1), st.integers(0, r + 1)) for r in kernel]))
    widest = st.integers(1, 20) | st.sampled_from([3 * n for n in beside(vector)[:4] if n])
    size = [max(draw(widest), r - sum(pads)) for r, pads in zip(kernel, padding, strict=True)]
    groups = draw(st.integers(1, 3))
    least = 1 if groups == 1 else 2
    return {
        "images": draw(st.integers(1, 3)),
        "channels": groups * draw(st.integers(least, 5)),
        "filters": groups * draw(st.integers(1, 5) | st.sampled_from(beside(rows)[:4])),
        "size": tuple(size),
        "kernel": kernel,
        "padding": padding,
        "groups": groups,
        "dtype": dtype,
        "seed": draw(st.integers(0, 99)),
    }


@settings(random_cases, max_examples=500)
@given(blocks())
def test_random_blocks(case):
    check_blocks(**case)


# Images, channels, filters, size, kernel and padding.
TABLE = {
    "one output": (1, 2, 3, (4, 5), (4, 5), 0),
    "one pixel in padding": (1, 2, 3, (1, 1), (5, 4), 2),
    "one column": (2, 3, 4, (9, 1), (5, 7), (2, 3)),
    "whole tiles and blocks": (2, 3, 7, (27, 48), (6, 9), 0),
    "a pixel and a tap over": (2, 3, 7, (28, 49), (7, 10), 0),
    "padding wider than the kernel": (1, 2, 3, (6, 7), (4, 4), ((5, 6), (4, 7))),
    "two rows": (1, 3, 2, (9, 40), (2, 11), 1),
    # 64 channels of 40 tiles a line leave a line or two to a block; products of 70 filters are made in parts.
    "several blocks and parts of the filters": (1, 64, 70, (60, 120), (5, 6), 2),
    "more threads than images": (1, 4, 40, (8, 8), (6, 5), 2),
    "a line of tiles over the block": (1, 40, 5, (5, 1300), (5, 6), 2),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TABLE)
def test_table_of_blocks(name, dtype):
    images, channels, filters, size, kernel, padding = TABLE[name]
    check_blocks(images, channels, filters, size, kernel, padding=padding, dtype=dtype)


def test_planes_of_images_part_by_part(monkeypatch):
    """Planes that do not fit the memory allowed are made for some images at a time."""
    for allowed in (1, 100_000):
        monkeypatch.setattr(winograd_blocks, "_PLANES_BYTES", allowed)
        check_blocks(7, 3, 4, (12, 11), (5, 6), padding=2)


def test_an_image_has_the_same_bits_in_every_batch():
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((5, 5, 11, 13), np.float32), rng.standard_normal((7, 5, 5, 4), np.float32)
    how = {"padding": 2, "algorithm": "winograd"}
    y = functional.conv2d(x, w, **how)
    dx = functional.conv2d_backward_input(y, w, x.shape, **how)
    for n in range(len(x)):
        one = slice(n, n + 1)
        np.testing.assert_array_equal(functional.conv2d(x[one], w, **how), y[one])
        np.testing.assert_array_equal(functional.conv2d_backward_input(y[one], w, (1, *x.shape[1:]), **how), dx[one])


def test_what_is_left_to_others():
    x = np.zeros((1, 4, 9, 9), np.float32)
    refused = "'winograd' takes kernels of 3x3 and larger with stride 1 or 2, dilated ones and rows and columns of 2 to 31 taps"
    for kernel, how in (((5, 5), {"stride": 3}), ((3, 3), {"dilation": 2, "stride": 2}), ((2, 2), {})):
        with pytest.raises(ConfigError, match=refused):
            functional.conv2d(x, np.zeros((2, 4, *kernel), np.float32), **how, algorithm="winograd")
    refused = "'winograd' takes 3x3 kernels without a dilation alone where each channel has filters of its own"
    for kernel, dilation in ((5, 1), (3, 2)):
        with pytest.raises(ConfigError, match=refused):
            functional.conv2d(x, np.zeros((4, 1, kernel, kernel)), groups=4, dilation=dilation, algorithm="winograd")
