"""Convolution: compiled kernels against the reference, for every instruction set and thread count."""

import numpy as np
import pytest
from helpers import DTYPES, assert_kernel, beside, edges, random_cases, windows
from hypothesis import given, settings
from hypothesis import strategies as st

from convlayers import functional, kernels
from convlayers.kernels import reference
from convlayers.shapes import window
from convlayers.testing import assert_close, assert_gradient
from convlayers.testing.machine import same_bits

CONV_OPTIONS = ("stride", "padding", "dilation")


def check_conv(images, channels, filters, size, kernel, *, groups=1, dtype="float32", seed=0, algorithm="auto", **options):
    """Forward and all three gradients of one convolution."""
    rng, options = np.random.default_rng(seed), {"stride": 1, **options}
    x = rng.standard_normal((images, channels, *size)).astype(dtype)
    w = rng.standard_normal((filters, channels // groups, *kernel)).astype(dtype)
    b = rng.standard_normal(filters).astype(dtype)
    win = window(size, kernel, **options)
    dy = rng.standard_normal((images, filters, *win.output)).astype(dtype)
    options |= {"groups": groups, "algorithm": algorithm}

    def compute():
        return functional.conv2d(x, w, b, **options), *functional.conv2d_backward(dy, x, w, **options)

    expected = [
        reference.conv_forward(x, w, b, win, groups),
        reference.conv_backward_input(dy, w, x.shape, win, groups),
        *reference.conv_backward_weight(dy, x, w.shape, win, groups),
    ]
    taps, pixels = kernel[0] * kernel[1], images * win.output[0] * win.output[1]
    lengths = [channels // groups * taps + 1, filters // groups * taps, pixels, pixels]
    what = f"x {x.shape}, w {w.shape}, {options}, seed {seed}"
    assert_kernel(compute, expected, lengths, what, dtype)


@st.composite
def convolutions(draw):
    geometry = draw(windows())
    groups = draw(st.integers(1, 3))
    return {
        "images": draw(st.integers(1, 3)),
        "channels": groups * draw(st.integers(1, 5)),
        "filters": groups * draw(st.integers(1, 17)),
        "groups": groups,
        "dtype": draw(st.sampled_from(DTYPES)),
        "seed": draw(st.integers(0, 99)),
        **geometry,
    }


@settings(random_cases, max_examples=300)
@given(convolutions())
def test_random_convolutions(case):
    check_conv(**case)


@settings(random_cases, max_examples=40)
@given(convolutions())
def test_gradients_by_central_differences(case):
    rng = np.random.default_rng(case["seed"])
    options = {key: case[key] for key in (*CONV_OPTIONS, "groups")}
    x = rng.standard_normal((case["images"], case["channels"], *case["size"]))
    w = rng.standard_normal((case["filters"], case["channels"] // case["groups"], *case["kernel"]))
    b = rng.standard_normal(case["filters"])
    y = functional.conv2d(x, w, b, **options)
    dy = rng.standard_normal(y.shape)
    dx, dw, db = functional.conv2d_backward(dy, x, w, **options)
    assert_gradient(lambda v: (functional.conv2d(v, w, b, **options) * dy).sum(), x, dx, rng, "x")
    assert_gradient(lambda v: (functional.conv2d(x, v, b, **options) * dy).sum(), w, dw, rng, "w")
    assert_gradient(lambda v: (functional.conv2d(x, w, v, **options) * dy).sum(), b, db, rng, "b")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", kernels.available())
def test_rows_beside_the_edges_of_a_vector(isa, dtype):
    vector, _ = edges(isa, dtype)
    for outputs in beside(vector):
        check_conv(2, 2, 3, (3, outputs + 2), (3, 3), padding=((1, 1), (0, 0)), dtype=dtype)
        check_conv(1, 2, 3, (outputs, 1), (2, 1), padding=((0, 1), (0, 0)), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", kernels.available())
def test_filters_beside_the_edges_of_a_tile(isa, dtype):
    _, rows = edges(isa, dtype)
    for filters in beside(rows):
        check_conv(2, 3, filters, (5, 6), (3, 2), dtype=dtype)
        check_conv(2, filters, 2, (5, 6), (2, 3), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", kernels.available())
def test_weight_gradients_beside_the_edges_of_tiles_and_blocks(isa, dtype):
    """With a stride, lanes are filters and the rows of a tile taps; a block has 256 pixels, where there are so many."""
    vector, rows = edges(isa, dtype)
    for filters in {*beside(vector), *beside(2 * vector)}:
        check_conv(2, 3, filters, (7, 8), (3, 2), stride=2, dtype=dtype)
    for taps in {*beside(rows), *beside(rows + 2)}:
        check_conv(2, taps, 3, (5, 6), (1, 1), stride=2, dtype=dtype)
        check_conv(2, taps, vector + 1, (5, 6), (1, 1), stride=2, dtype=dtype)
    for pixels in {*beside(256), *beside(512)}:
        check_conv(1, 2, 3, (1, 2 * pixels), (1, 2), stride=2, dtype=dtype)
        check_conv(1, 2, 3, (3, 2 * pixels), (2, 3), stride=2, padding=1, dtype=dtype)
    for height in {*beside(16), *beside(32)}:
        check_conv(3, 2, 3, (2 * height, 32), (2, 2), stride=2, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "kernel", "options"),
    [
        ((7, 7), (3, 3), {"padding": 1}),
        ((4, 5), (1, 1), {}),
        ((8, 9), (3, 3), {"stride": 2, "padding": 1}),
        ((9, 9), (1, 1), {"stride": 2}),
        ((6, 6), (5, 5), {"padding": 2, "groups": 2}),
        ((3, 3), (3, 3), {"padding": 1, "groups": 2}),
    ],
)
def test_few_images_whose_filters_are_shared_out(size, kernel, options, dtype):
    """Blocks of rows would be short of vectors: threads take parts of the filters, evenly; with slices of the channels too."""
    for images in (1, 2, 3):
        check_conv(images, 20, 174, size, kernel, dtype=dtype, algorithm="direct", **options)
    check_conv(1, 300, 66, size, kernel, dtype=dtype, algorithm="direct", **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", kernels.available())
def test_1x1_kernels_that_read_the_image_in_place(isa, dtype):
    vector, _ = edges(isa, dtype)
    for pixels in beside(vector):
        check_conv(2, 3, 5, (1, pixels), (1, 1), dtype=dtype)
        check_conv(1, 4, 7, (pixels, 3), (1, 1), groups=1, dtype=dtype)
    check_conv(2, 6, 8, (5, 5), (1, 1), groups=2, dtype=dtype)


# Images, channels, filters, size, kernel, options.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(3, 3), (5, 5), (6, 6), (7, 7), (1, 17)])
def test_1x1_kernels_across_the_ends_of_images(size, dtype):
    """Few pixels and many filters: panels hold pixels of two images, by groups and by slices of the channels too."""
    for images in (2, 3, 4, 9, 33):
        check_conv(images, 100, 130, size, (1, 1), dtype=dtype)
    check_conv(5, 200, 260, size, (1, 1), groups=2, dtype=dtype)
    check_conv(5, 1200, 130, size, (1, 1), dtype=dtype)
    check_conv(5, 130, 1200, size, (1, 1), dtype=dtype)


@pytest.mark.parametrize("size", [(5, 5), (7, 7), (47, 46)])
def test_1x1_kernels_give_an_image_the_same_bits_in_every_batch(size):
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((9, 100, *size), dtype=np.float32), rng.standard_normal((130, 100, 1, 1), dtype=np.float32)
    together = functional.conv2d(x, w, algorithm="direct")
    for some in (slice(0, 1), slice(3, 7), slice(1, 9)):
        assert same_bits(functional.conv2d(x[some], w, algorithm="direct"), together[some])


@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("stride", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_a_stride_apart(isa, stride, dtype):
    """Read as vectors, and input gradients put together of vectors, beside their edges; blank sub-grids and short last rows."""
    vector, _ = edges(isa, dtype)
    for outputs in {1, *beside(vector), *beside(2 * vector)}:
        for width in (stride * (outputs - 1) + 1, stride * outputs):
            for kernel in ((1, 1), (2, stride), (1, stride + 1)):
                size = 5, max(width, kernel[1])
                check_conv(2, 2, 3, size, kernel, stride=stride, dtype=dtype, algorithm="direct")
            check_conv(1, 3, 2, (4, width), (3, 3), stride=(1, stride), padding=1, dtype=dtype, algorithm="direct")


@pytest.mark.parametrize("filters", [1, 2, 7, 8, 9, 12, 23, 24, 25, 143, 144, 145])
def test_1x1_kernels_whose_first_tile_packs(filters):
    """Tiles of 4 to 6 rows pack, for up to 24; beside one panel and several, the last of one vector or less, and groups."""
    for pixels in (15, 16, 17, 24, 25, 32, 33, 100):
        check_conv(2, 5, filters, (1, pixels), (1, 1), dtype=np.float32)
    check_conv(1, 40, filters, (29, 30), (1, 1), dtype=np.float32)
    check_conv(3, 36, 2 * filters, (9, 16), (1, 1), groups=2, dtype=np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(47, 46), (64, 33), (1, 2100), (2100, 1), (27, 27), (29, 45), (3, 431)])
def test_1x1_kernels_of_few_images_whose_rows_are_shared_out(size, dtype):
    for images, groups in ((1, 1), (1, 2), (3, 1)):
        check_conv(images, 12, 34, size, (1, 1), groups=groups, dtype=dtype)


TABLE = {
    "one pixel": (1, 1, 1, (1, 1), (1, 1), {}),
    "one pixel in padding": (1, 2, 2, (1, 1), (3, 3), {"padding": 1}),
    "one column": (2, 3, 4, (9, 1), (3, 1), {}),
    "one column in padding": (2, 3, 4, (9, 1), (3, 3), {"padding": 1}),
    "one row": (2, 3, 4, (1, 9), (1, 3), {}),
    "kernel as large as the padded image": (2, 3, 4, (5, 4), (7, 5), {"padding": ((1, 1), (0, 1))}),
    "stride over the kernel": (2, 3, 4, (11, 13), (2, 1), {"stride": (3, 5)}),
    "stride over the image": (2, 3, 4, (5, 4), (2, 2), {"stride": 9}),
    "1x1 with stride": (2, 3, 4, (9, 8), (1, 1), {"stride": 2}),
    "1x1 with padding": (2, 3, 4, (4, 5), (1, 1), {"padding": ((1, 0), (2, 1))}),
    # With 32 registers, up to 3,072 values of planes and tiles are read where they lie: 6 tiles of 22 x 22, 12 of 16 x 16.
    "1x1, six tiles in place": (3, 5, 84, (22, 22), (1, 1), {}),
    "1x1, six tiles packed": (3, 5, 84, (23, 22), (1, 1), {}),
    "1x1, twelve tiles in place": (3, 7, 168, (16, 16), (1, 1), {}),
    "1x1, thirteen tiles packed": (3, 7, 169, (16, 16), (1, 1), {}),
    "1x1, fewer pixels than a tile has lanes": (5, 70, 30, (3, 5), (1, 1), {}),
    # An image of more than 256 KB, and where the second level has 2 MB of more than 512 KB, is packed in parts.
    "1x1, 300 KB": (2, 160, 33, (22, 22), (1, 1), {}),
    "1x1, 600 KB": (2, 320, 34, (22, 22), (1, 1), {"groups": 2}),
    "padding wider than the kernel": (1, 2, 3, (3, 2), (2, 2), {"padding": ((5, 4), (3, 6))}),
    "same, even kernel, stride": (2, 2, 3, (9, 10), (4, 2), {"stride": 3, "padding": "same"}),
    "dilation to the image's edge": (2, 2, 3, (9, 13), (3, 4), {"dilation": 4}),
    "depthwise": (2, 19, 19, (9, 11), (3, 3), {"padding": 1, "groups": 19}),
    "depthwise, two filters each": (2, 5, 10, (9, 11), (5, 5), {"padding": 2, "groups": 5}),
    "many groups, dilated": (1, 12, 18, (9, 11), (3, 3), {"padding": "same", "dilation": 2, "groups": 6}),
    "first layer": (8, 1, 6, (28, 28), (5, 5), {"padding": 2}),
    "large stem": (1, 3, 16, (60, 60), (7, 7), {"stride": 2, "padding": 3}),
    "many images of few pixels": (150, 2, 3, (3, 3), (3, 3), {"padding": 1}),
    # 64 channels of 42 x 42 float32 are 450 KB: the padded copy is worked on in blocks of rows.
    "copy in row blocks": (1, 64, 20, (40, 40), (3, 3), {"padding": 1}),
    "copy in row blocks, stride": (1, 64, 7, (41, 41), (3, 3), {"stride": 2, "padding": 1, "algorithm": "direct"}),
    "copy in row blocks, dilation": (1, 48, 7, (45, 40), (3, 3), {"dilation": 3}),
    # One line of the copy alone is larger than a block of it.
    "a line over the block": (1, 40, 2, (3, 1700), (2, 2), {}),
    # Several blocks of pixels in each shard of the weight gradient, and few shards that are split by filters.
    "many weight blocks": (70, 3, 8, (14, 14), (3, 3), {"padding": 1}),
    "few weight shards": (2, 8, 70, (12, 12), (3, 3), {}),
    # Sums of more than 1152 taps go by slices of the channels where there are 64 filters: for one gather, for the sub-grids of
    # a stride, and where nothing is copied.
    "slices of channels": (1, 150, 70, (9, 11), (3, 3), {"padding": 1}),
    "slices of channels, stride": (1, 150, 300, (9, 11), (3, 3), {"stride": 2, "padding": 1, "algorithm": "direct"}),
    "slices of channels, stride of rows": (1, 150, 300, (9, 11), (3, 3), {"stride": (2, 1), "padding": 1}),
    "slices of channels, 1x1": (1, 1300, 66, (7, 7), (1, 1), {}),
    "slices of channels, 1x1 backward": (1, 66, 1300, (7, 7), (1, 1), {}),
    "slices of channels in groups": (1, 320, 140, (6, 9), (3, 3), {"groups": 2}),
    # Weight gradients with filters for lanes: several images, rows or parts of a row make a block, the channels are copied in
    # slices, or x is read in place.
    "weights, blocks of images": (150, 9, 33, (3, 3), (3, 3), {"padding": 1}),
    "weights, blocks of rows": (3, 7, 35, (37, 19), (3, 3), {"padding": 1, "dilation": 2}),
    "weights, parts of a row": (2, 20, 19, (2, 1100), (2, 2), {"padding": ((0, 1), (1, 0))}),
    "weights, parts of a row in place": (2, 20, 19, (2, 1100), (1, 3), {"stride": (1, 2)}),
    "weights, slices of channels": (2, 150, 17, (21, 23), (3, 3), {"padding": 1}),
    "weights, slices of channels in groups": (2, 620, 6, (9, 8), (3, 3), {"groups": 2, "stride": 2, "padding": 1}),
    "weights, many channels in place": (3, 600, 16, (7, 7), (1, 1), {}),
    "weights, in place with a stride": (3, 5, 40, (9, 10), (3, 2), {"stride": (2, 3), "groups": 5}),
    # With pixels for lanes where filters are few.
    "weights, few filters": (3, 40, 9, (12, 13), (3, 3), {"padding": 1}),
    # More taps than are transposed at once when filters are packed.
    "many taps": (1, 3, 20, (12, 13), (9, 9), {"padding": 4}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TABLE)
def test_table_of_shapes(name, dtype):
    *sizes, options = TABLE[name]
    check_conv(*sizes, dtype=dtype, **options)


def test_against_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is the second judge where it is installed")
    rng = np.random.default_rng(4)
    for options in ({}, {"stride": (2, 1), "padding": (1, 2)}, {"groups": 3, "dilation": 2}, {"padding": "same"}):
        x, b = rng.standard_normal((2, 6, 10, 11)), rng.standard_normal(9)
        w = rng.standard_normal((9, 6 // options.get("groups", 1), 3, 3))
        tensors = [torch.from_numpy(a).requires_grad_() for a in (x, w, b)]
        y = torch.nn.functional.conv2d(*tensors, **options)
        dy = rng.standard_normal(tuple(y.shape))
        y.backward(torch.from_numpy(dy))
        actual = [functional.conv2d(x, w, b, **options), *functional.conv2d_backward(dy, x, w, **options)]
        for a, e in zip(actual, [y.detach(), *(t.grad for t in tensors)], strict=True):
            assert_close(a, e.numpy(), dy.size, f"PyTorch, {options}")


# Channels, filters, images and side: weight gradients whose x and dy change places, and a channel, a filter or a pixel beside.
NARROW = [(64, 128, 4, 16), (65, 130, 4, 16), (64, 127, 4, 16), (3, 13, 1, 32), (3, 12, 1, 32), (5, 30, 1, 31), (1, 33, 2, 25)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "filters", "images", "side"), NARROW)
def test_pointwise_kernels_of_few_channels(channels, filters, images, side, dtype):
    check_conv(images, channels, filters, (side, side), (1, 1), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("filters", [1, 4, 20])
def test_not_finite_pixels_reach_the_taps_that_read_them(filters, dtype):
    """The last column of x is read by the last column of taps alone."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((3, 1, 10, 27)).astype(dtype), rng.standard_normal((3, filters, 11, 27)).astype(dtype)
    x[:, :, :, -1], padding = np.nan, ((2, 1), (2, 0))
    expected = reference.conv_backward_weight(dy, x, (filters, 1, 3, 3), window((10, 27), 3, stride=1, padding=padding), 1)[0]
    for isa in kernels.available():
        with kernels.using(isa=isa):
            dw = functional.conv2d_backward_weight(dy, x, (filters, 1, 3, 3), padding=padding, algorithm="direct")[0]
        np.testing.assert_array_equal(np.isnan(dw), np.isnan(expected), err_msg=isa)
        np.testing.assert_allclose(dw, expected, 1e-3 if dtype == "float32" else 1e-9, err_msg=isa)


def test_not_finite_pixels_stay_where_they_are_read():
    x = np.zeros((1, 1, 5, 9), np.float32)
    x[0, 0, 2, 4] = np.nan
    w = np.ones((1, 1, 3, 3), np.float32)
    for isa in kernels.available():
        with kernels.using(isa=isa):
            nan = np.isnan(functional.conv2d(x, w, padding=1, algorithm="direct"))[0, 0]
        assert nan[1:4, 3:6].all(), isa
        assert nan.sum() == 9, isa
