"""Depthwise convolution: compiled kernels against the reference, for every instruction set and thread count."""

import numpy as np
import pytest
from helpers import DTYPES, beside, edges, random_cases, windows
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernels_conv import check_conv

from convlayers import functional, kernels
from convlayers.kernels import reference
from convlayers.shapes import window
from convlayers.testing import assert_gradient
from convlayers.testing.machine import same_bits

NAN, INF = np.nan, np.inf


def check_depthwise(images, channels, size, kernel, *, multiplier=1, **options):
    """Forward and all three gradients, `multiplier` filters for each channel."""
    check_conv(images, channels, channels * multiplier, size, kernel, groups=channels, **options)


@st.composite
def depthwise(draw):
    geometry = draw(windows(largest_kernel=8))
    return {
        "images": draw(st.integers(1, 3)),
        "channels": draw(st.integers(2, 40)),
        "multiplier": draw(st.integers(1, 3)),
        "dtype": draw(st.sampled_from(DTYPES)),
        "seed": draw(st.integers(0, 99)),
        **geometry,
    }


@settings(random_cases, max_examples=200)
@given(depthwise())
def test_random_convolutions(case):
    check_depthwise(**case)


@settings(random_cases, max_examples=20)
@given(depthwise())
def test_gradients_by_central_differences(case):
    rng = np.random.default_rng(case["seed"])
    options = {key: case[key] for key in ("stride", "padding", "dilation")} | {"groups": case["channels"]}
    x = rng.standard_normal((case["images"], case["channels"], *case["size"]))
    w = rng.standard_normal((case["channels"] * case["multiplier"], 1, *case["kernel"]))
    dy = rng.standard_normal(functional.conv2d(x, w, **options).shape)
    dx, dw, _ = functional.conv2d_backward(dy, x, w, **options)
    assert_gradient(lambda v: (functional.conv2d(v, w, **options) * dy).sum(), x, dx, rng, "x")
    assert_gradient(lambda v: (functional.conv2d(x, v, **options) * dy).sum(), w, dw, rng, "w")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("stride", [1, 2])
def test_rows_beside_the_edges_of_a_vector(isa, dtype, stride):
    vector, _ = edges(isa, dtype)
    for outputs in beside(vector):
        check_depthwise(3, 2, (5, (outputs - 1) * stride + 2), (3, 3), padding=1, stride=stride, dtype=dtype)
        check_depthwise(2, 3, (3, (outputs - 1) * stride + 5), (1, 5), stride=(1, stride), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [1, 2])
def test_rows_beside_the_edges_of_a_strip(dtype, stride):
    """Strips of 8, 4, 2 and 1 rows of outputs; blocks of 4 rows and single ones for the weight gradient."""
    for outputs in range(1, 18):
        check_depthwise(1, 2, ((outputs - 1) * stride + 3, 20), (3, 3), stride=stride, dtype=dtype)
        check_depthwise(2, 2, (outputs, 5), (3, 3), padding=(2, 1), dilation=(2, 1), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [1, 2])
def test_kernels_beside_the_edges_of_a_column(dtype, stride):
    """Up to seven taps of a kernel column are summed at once, of each phase with a stride."""
    for taps in (6, 7, 8, 13, 14, 15, 16):
        check_depthwise(2, 2, (19, 18), (taps, 2), padding=(taps // 2, 1), stride=stride, dtype=dtype)
        check_depthwise(2, 2, (9, 31), (2, taps), padding=(0, taps // 2), stride=stride, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_images_beside_the_edges_of_a_line(dtype):
    """Narrow images lie side by side in lines of several vectors, or across the lanes; the last line is partly empty."""
    for images in (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33):
        check_depthwise(images, 2, (4, 5), (3, 3), padding=1, dtype=dtype)
        check_depthwise(images, 2, (5, 6), (3, 3), padding=1, stride=2, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"kernel": (5, 5), "padding": 2}, {"kernel": (9, 2), "padding": (4, 1)}, {"dilation": 2}]
)
def test_small_planes_of_any_channels(isa, dtype, options):
    """Lanes are planes in the order of memory: the last vector of them is partly empty, and channels begin again within one."""
    lanes, _ = edges(isa, dtype)
    with kernels.using(isa=isa):
        for planes in beside(lanes):
            for images, multiplier in ((1, 1), (2, 1), (1, 3)):
                channels = max(1, planes // images)
                how = {"kernel": (3, 3), "padding": 1, "multiplier": multiplier, "dtype": dtype, **options}
                check_depthwise(images, channels + 1, (7, 6), how.pop("kernel"), **how)
        check_depthwise(5, 3 * lanes + 1, (4, 5), (3, 3), padding=1, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", kernels.available())
def test_planes_as_rows_of_pixels(isa, dtype):
    """3 x 3 at stride 1 of planes no wider than a vector: from one vector of pixels on, and beside two and three."""
    lanes, _ = edges(isa, dtype)
    with kernels.using(isa=isa):
        for width in sorted({1, 2, 3, *beside(lanes)}):
            for pixels in (lanes, 2 * lanes, 3 * lanes):
                for height in {pixels // width, pixels // width + 1}:
                    check_depthwise(2, 19, (max(1, height), width), (3, 3), padding=1, dtype=dtype)
            for pixels in (6 * lanes, 8 * lanes - 3):
                check_depthwise(2, 3, (-(-pixels // width), width), (3, 3), padding=1, dtype=dtype)
        for images, channels in ((1, 17), (33, 2), (3, 16)):
            check_depthwise(images, channels, (7, 5), (3, 3), padding=1, dtype=dtype)


@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2, ((0, 1), (0, 1)), ((1, 0), (2, 1)), ((2, 1), (1, 2))])
def test_rows_where_they_lie(isa, stride, padding):
    """3 x 3 at stride 1 and 2, rows of outputs beside one, two and three vectors, and blocks of rows."""
    with kernels.using(isa=isa):
        for columns in (9, 10, 15, 16, 17, 31, 32, 33, 48):
            for height in (1, 2, 3, 4, 7):
                check_depthwise(2, 3, (height + 2, columns * stride + 1), (3, 3), stride=stride, padding=padding)
        for columns in (6, 7, 8):
            check_depthwise(5, 3, (8, columns * stride), (3, 3), stride=stride, padding=padding)
        for outputs in (127, 128, 129):
            check_depthwise(2, 2, (9, outputs * stride), (3, 3), stride=stride, padding=padding)
        for size in ((33, 56), (41, 113), (20, 700)):
            check_depthwise(1, 2, size, (3, 3), stride=stride, padding=padding)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", kernels.available())
def test_planes_as_rows_keep_to_themselves(isa, dtype):
    """Neither the planes beside one in memory nor the ends of its rows show in its outputs."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 5, 6, 7)).astype(dtype), rng.standard_normal((5, 1, 3, 3)).astype(dtype)
    with kernels.using(isa=isa):
        whole = functional.conv2d(x, w, padding=1, groups=5)
        for c in range(5):
            others = np.full_like(x, NAN)
            others[:, c] = x[:, c]
            assert same_bits(functional.conv2d(others, w, padding=1, groups=5)[:, c], whole[:, c])
        x[:, :, :, 0] = INF
        y = functional.conv2d(x, w, padding=1, groups=5)
        assert np.isfinite(y[:, :, :, 2:]).all()
        assert not np.isfinite(y[:, :, :, :2]).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("height", [13, 14, 16, 18])
def test_the_last_row_reaches_no_sum_of_the_row_above(isa, dtype, height):
    """Its pixels lie a row above what would lie behind the plane."""
    rng = np.random.default_rng(2)
    x, dy = (rng.standard_normal((3, 5, height, 7)).astype(dtype) for _ in range(2))
    x[:, :, -1] = INF
    with kernels.using(isa=isa):
        dw, _ = functional.conv2d_backward_weight(dy, x, (5, 1, 3, 3), padding=1, groups=5)
    assert np.isfinite(dw[:, 0, 0]).all()
    assert not np.isfinite(dw[:, 0, 1:]).any()


@pytest.mark.parametrize(
    ("size", "stride", "kernel"),
    [
        *(((7, 7), 1, 3), ((14, 14), 1, 3), ((14, 13), 2, 3), ((20, 23), 1, 3), ((31, 33), 2, 3)),
        *(((7, 7), 1, 5), ((9, 8), 1, 7), ((14, 15), 1, 5), ((28, 27), 2, 5), ((14, 14), 2, 7)),
    ],
)
def test_an_image_has_the_same_bits_alone_and_in_a_batch(size, stride, kernel):
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape, dtype=np.float32) for shape in ((33, 37, *size), (37, 1, kernel, kernel)))
    options = {"padding": kernel // 2, "groups": 37, "stride": stride}
    whole = functional.conv2d(x, w, **options)
    back = functional.conv2d_backward_input(whole, w, x.shape, **options)
    for images in (1, 2, 5, 16):
        some = functional.conv2d(x[:images], w, **options)
        assert same_bits(some, whole[:images])
        assert same_bits(functional.conv2d_backward_input(some, w, x[:images].shape, **options), back[:images])


# Images, channels, size, kernel, options.
TABLE = {
    "one pixel": (1, 2, (1, 1), (1, 1), {}),
    "one pixel in padding": (2, 3, (1, 1), (5, 5), {"padding": 2}),
    "one column": (3, 2, (19, 1), (3, 1), {"padding": (1, 0)}),
    "one column in padding": (3, 2, (19, 1), (3, 3), {"padding": 1}),
    "one row": (3, 2, (1, 37), (1, 3), {}),
    "one row in padding": (3, 2, (1, 37), (3, 3), {"padding": 1, "multiplier": 2}),
    "1x1": (2, 5, (9, 11), (1, 1), {}),
    "1x1 with stride": (2, 5, (9, 11), (1, 1), {"stride": 2}),
    "1x1 with stride, pixels that no window holds": (2, 5, (10, 12), (1, 1), {"stride": 3}),
    "stride over the image": (2, 3, (5, 4), (2, 2), {"stride": 9}),
    "stride over one column": (2, 3, (8, 1), (3, 1), {"stride": 3, "padding": ((0, 1), (1, 3))}),
    "padding wider than the kernel": (1, 2, (3, 2), (2, 2), {"padding": ((5, 4), (3, 6))}),
    "no row but padding": (1, 2, (1, 3), (2, 2), {"padding": ((6, 6), (0, 0)), "stride": 4}),
    "stride and dilation with a common divisor": (2, 3, (23, 24), (4, 3), {"stride": 4, "dilation": 6, "padding": 5}),
    "dilation to the image's edge": (2, 3, (9, 13), (3, 4), {"dilation": 4}),
    "kernel as large as the image": (2, 3, (11, 9), (11, 9), {}),
    "7x7": (2, 4, (28, 28), (7, 7), {"padding": 3}),
    # Strips of 8 and of 14 rows, a row short and a row over; a vector of columns, one short and one over; the widest, one over.
    "7x7, short strips": (3, 2, (8, 16), (7, 7), {"padding": 3}),
    "7x7, a row and a column over": (3, 2, (15, 17), (7, 7), {"padding": ((3, 2), (1, 6))}),
    "5x5, tall strips": (3, 4, (14, 15), (5, 5), {"padding": 2}),
    "5x5, a row short": (2, 3, (13, 31), (5, 5), {"padding": 2}),
    "5x5, no padding": (2, 3, (32, 52), (5, 5), {}),
    "5x5, two planes in a vector": (3, 5, (9, 8), (5, 5), {"padding": 2}),
    "7x7, two planes in a vector, an odd border": (1, 7, (7, 6), (7, 7), {"padding": ((1, 5), (4, 2))}),
    "5x5, a column short of two planes in a vector": (2, 3, (8, 4), (5, 5), {"padding": 2}),
    "5x5, a column too many": (2, 3, (9, 49), (5, 5), {"padding": 2}),
    "5x5, less rows than the kernel": (2, 3, (2, 12), (5, 5), {"padding": 4}),
    "5x5 with stride": (3, 4, (28, 28), (5, 5), {"padding": 2, "stride": 2}),
    "5x5 with stride, a row and a column over": (3, 4, (29, 33), (5, 5), {"padding": 2, "stride": 2}),
    "5x5 with stride, no padding": (2, 3, (33, 37), (5, 5), {"stride": 2}),
    "5x5 with stride, an odd border": (2, 3, (26, 25), (5, 5), {"padding": ((1, 4), (3, 0)), "stride": 2}),
    "7x7 with stride, the widest": (2, 3, (15, 96), (7, 7), {"padding": 3, "stride": 2}),
    "7x7 with stride, less rows than the kernel": (2, 3, (3, 24), (7, 7), {"padding": 5, "stride": 2}),
    "many filters a channel": (2, 2, (9, 9), (3, 3), {"padding": 1, "multiplier": 19}),
    # Images across the lanes of vectors, with several planes to sum for each channel, and pixels that no window reads.
    "across": (16, 3, (7, 7), (3, 3), {"padding": 1, "multiplier": 3}),
    "across, stride": (15, 2, (14, 13), (5, 5), {"padding": 2, "stride": 2, "multiplier": 2}),
    "across, stride over the kernel": (16, 2, (12, 11), (2, 2), {"stride": 3, "multiplier": 2}),
    "across, dilation": (32, 2, (10, 9), (3, 3), {"padding": "same", "dilation": 2}),
    # More rows than a copy holds; few units of work for the threads; few channels, so shards of a channel.
    "row blocks": (1, 2, (130, 70), (3, 3), {"padding": 1}),
    "row blocks, stride": (2, 2, (131, 140), (3, 3), {"padding": 1, "stride": 2}),
    "row blocks, dilation": (1, 2, (121, 90), (5, 3), {"padding": 2, "dilation": 3}),
    "a line over the block": (1, 2, (20, 7000), (3, 3), {"padding": 1, "multiplier": 2}),
    "shards of a channel": (40, 2, (14, 14), (3, 3), {"padding": 1}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TABLE)
def test_table_of_shapes(name, dtype):
    *sizes, options = TABLE[name]
    check_depthwise(*sizes, dtype=dtype, **options)


@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("kernel", [5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", [5, 8, 11, 12, 16, 19, 48, 49])
def test_not_finite_pixels_reach_what_larger_kernels_read(isa, kernel, width, stride):
    rng = np.random.default_rng(0)
    width *= stride
    how = {"padding": kernel // 2, "groups": 3, "stride": stride, "algorithm": "direct"}
    win = window((9, width), kernel, stride=stride, padding=kernel // 2)
    w = rng.uniform(1, 2, (3, 1, kernel, kernel)).astype(np.float32)
    for at in range(0, 9 * width, 7):
        x = rng.uniform(1, 2, (1, 3, 9, width)).astype(np.float32)
        x[0, 1].flat[at] = NAN
        dy = np.ascontiguousarray(x[:, :, : win.output[0], : win.output[1]])
        with kernels.using(isa=isa):
            y = functional.conv2d(x, w, **how)
            dx = functional.conv2d_backward_input(dy, w, x.shape, **how)
        np.testing.assert_array_equal(np.isnan(y), np.isnan(reference.conv_forward(x, w, None, win, 3)), f"{isa}, pixel {at}")
        expected = reference.conv_backward_input(dy, w, x.shape, win, 3)
        np.testing.assert_array_equal(np.isnan(dx), np.isnan(expected), f"{isa}, gradient of pixel {at}")


@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize(
    "options",
    [{}, {"padding": 1}, {"stride": 2, "padding": 1}, {"stride": 2}, {"padding": 2}, {"dilation": 2, "padding": (0, 2)}],
)
@pytest.mark.parametrize("width", [6, 13, 16, 19, 40])
def test_not_finite_pixels_reach_what_reads_them(isa, value, options, width):
    """Every pixel by itself, in the first of two channels of two images: also beside rows and images of the copy."""
    rng = np.random.default_rng(0)
    win = window((6, width), (3, 3), **{"stride": 1, **options})
    w = rng.uniform(1, 2, (2, 1, 3, 3)).astype(np.float32)
    dy = rng.uniform(1, 2, (2, 2, *win.output)).astype(np.float32)
    for at in range(0, 6 * width, 5):
        x = rng.uniform(1, 2, (2, 2, 6, width)).astype(np.float32)
        x[0, 0].flat[at] = value
        with kernels.using(isa=isa):
            y = functional.conv2d(x, w, **options, groups=2, algorithm="direct")
            dw, db = functional.conv2d_backward_weight(dy, x, w.shape, **options, groups=2, algorithm="direct")
        np.testing.assert_array_equal(np.isfinite(y), np.isfinite(reference.conv_forward(x, w, None, win, 2)))
        np.testing.assert_array_equal(np.isfinite(dw), np.isfinite(reference.conv_backward_weight(dy, x, w.shape, win, 2)[0]))
        assert np.isfinite(db).all()


@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_not_finite_gradients_reach_what_reads_them(isa, value, stride, padding):
    rng = np.random.default_rng(0)
    win = window((6, 19), (3, 3), stride=stride, padding=padding)
    w = rng.uniform(1, 2, (2, 1, 3, 3)).astype(np.float32)
    options = {"stride": stride, "padding": padding, "groups": 2, "algorithm": "direct"}
    for at in range(0, win.output[0] * win.output[1], 3):
        dy = rng.uniform(1, 2, (2, 2, *win.output)).astype(np.float32)
        dy[0, 0].flat[at] = value
        with kernels.using(isa=isa):
            dx = functional.conv2d_backward_input(dy, w, (2, 2, 6, 19), **options)
        expected = reference.conv_backward_input(dy, w, (2, 2, 6, 19), win, 2)
        np.testing.assert_array_equal(np.isfinite(dx), np.isfinite(expected))


@pytest.mark.parametrize("isa", kernels.available())
def test_an_image_gets_the_same_bits_in_every_batch(isa):
    """Each output is one sum in one order, wherever its image lies in a line."""
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((9, 3, 11, 9)).astype(np.float32), rng.standard_normal((3, 1, 3, 3)).astype(np.float32)
    with kernels.using(isa=isa):
        together = functional.conv2d(x, w, padding=1, groups=3)
        alone = [functional.conv2d(x[n : n + 1], w, padding=1, groups=3) for n in range(len(x))]
    assert same_bits(together, np.concatenate(alone))


def test_no_images():
    x, w = np.empty((0, 3, 5, 5), np.float32), np.ones((3, 1, 3, 3), np.float32)
    assert functional.conv2d(x, w, groups=3).shape == (0, 3, 3, 3)
    dx, dw, db = functional.conv2d_backward(np.empty((0, 3, 3, 3), np.float32), x, w, groups=3)
    assert dx.shape == x.shape
    assert not dw.any()
    assert not db.any()
