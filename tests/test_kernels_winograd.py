"""Winograd's tiles at both strides: against the reference, for every instruction set, thread count and data type."""

import numpy as np
import pytest
from helpers import DTYPES, assert_kernel, beside, check_winograd, edges, random_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from convlayers import functional, kernels
from convlayers.errors import ConfigError
from convlayers.functional import conv, plan
from convlayers.functional.algorithms import winograd_tiles
from convlayers.functional.algorithms.problem import INPUT_GRADIENT
from convlayers.kernels import memory, reference
from convlayers.shapes import window
from convlayers.testing.machine import threads_at_every_size

ISAS = kernels.available()


@st.composite
def tilings(draw):
    """Images and padding of every remainder by the tile, channels and filters beside the edges of vectors and of tiles."""
    vector, rows = edges(draw(st.sampled_from(ISAS)), dtype := draw(st.sampled_from(DTYPES)))
    kernel, stride = draw(st.sampled_from(((3, 1), (3, 2), (5, 1), (4, 2), (5, 2), (6, 2))))
    before = st.integers(0, kernel) if kernel < 6 else st.sampled_from((0, 2, 4, 6))
    padding = draw(st.tuples(*[st.tuples(before, st.integers(0, kernel))] * 2))
    dilation = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)) | st.just((1, 1))) if stride == 1 else (1, 1)
    spans = [d * (kernel - 1) + 1 for d in dilation]
    size = [
        draw(st.integers(least := max(1, span - sum(pads)), max(26, least))) for pads, span in zip(padding, spans, strict=True)
    ]
    groups = draw(st.integers(1, 3))
    least = 2 if (kernel > 3 or dilation != (1, 1)) and groups > 1 else 1
    return {
        "images": draw(st.integers(1, 4)),
        "channels": groups * draw(st.integers(least, 6) | st.sampled_from([n for n in beside(vector)[:4] if n >= least])),
        "filters": groups * draw(st.integers(1, 6) | st.sampled_from(beside(rows))),
        "size": tuple(size),
        "stride": stride,
        "dilation": dilation,
        "padding": padding,
        "kernel": kernel,
        "groups": groups,
        "dtype": dtype,
        "seed": draw(st.integers(0, 99)),
    }


@settings(random_cases, max_examples=500)
@given(tilings())
def test_random_tilings(case):
    check_winograd(**case)


# Images, channels, filters, size, stride and padding.
TABLE = {
    "one pixel in padding": (1, 2, 3, (1, 1), 2, 1),
    "one output": (1, 2, 3, (3, 3), 2, 0),
    "one column": (2, 3, 4, (9, 1), 2, 1),
    "whole tiles": (2, 3, 7, (32, 64), 2, 1),
    "whole tiles, no padding": (2, 3, 7, (33, 17), 2, 0),
    "an output over the tiles": (1, 3, 7, (34, 18), 2, 1),
    "padding wider than a filter": (1, 2, 3, (9, 8), 2, ((5, 6), (4, 7))),
    # 64 channels leave 64 tiles to a block and a dozen filters to a part of them (AVX2, float32).
    "several blocks and parts of the filters": (1, 64, 40, (74, 74), 2, 1),
    "tiles of many images in a block": (70, 5, 13, (4, 4), 2, 1),
    "more threads than blocks": (1, 4, 40, (8, 8), 2, 1),
    "a line of tiles over the block": (1, 40, 5, (9, 1100), 2, 1),
    # Sums over a megabyte: weight gradients by parts of the channels; filters made tile by tile of rows.
    "parts of the channels": (2, 130, 101, (9, 10), 1, 1),
    "parts of the filters": (1, 33, 300, (5, 40), 1, 0),
    "one more channel than parts of equal size": (1, 257, 65, (4, 9), 1, 1),
    "parts with a strided filter": (2, 70, 90, (9, 10), 2, 1),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TABLE)
def test_table_of_tilings(name, dtype):
    images, channels, filters, size, stride, padding = TABLE[name]
    check_winograd(images, channels, filters, size, stride=stride, padding=padding, dtype=dtype)


# Images, channels, filters, size, kernel, dilation and padding.
DILATED = {
    "as many pixels in each phase": (2, 3, 5, (32, 64), 3, 2, 2),
    "phases that end in zeros": (2, 3, 5, (31, 35), 3, 4, 4),
    "phases that begin with zeros": (2, 3, 5, (13, 12), 3, (2, 3), ((1, 2), (4, 5))),
    "rows alone": (1, 4, 3, (12, 11), 3, (3, 1), (3, 1)),
    "columns alone": (1, 4, 3, (11, 70), 3, (1, 3), (1, 3)),
    "more phases than are moved by vectors": (2, 3, 4, (20, 45), 3, 5, 5),
    "fewer pixels than phases": (2, 2, 3, (3, 4), 3, 6, 6),
    "one output": (1, 3, 2, (9, 7), 3, (4, 3), 0),
    "a kernel of an even size": (2, 3, 4, (14, 15), (4, 3), 2, (3, 2)),
    "a large kernel": (1, 3, 4, (30, 29), 7, 2, 6),
    "5 x 5": (2, 3, 4, (21, 23), 5, 3, 6),
    "many images": (70, 3, 4, (8, 8), 3, 2, 2),
    "rows of whole vectors": (1, 2, 3, (9, 96), 3, 3, 3),
    "rows a value over": (1, 2, 3, (9, 97), 3, 3, 3),
    "fours, a value over": (1, 2, 3, (9, 129), 3, 4, 4),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DILATED)
def test_dilated_kernels(name, dtype):
    images, channels, filters, size, kernel, dilation, padding = DILATED[name]
    check_winograd(images, channels, filters, size, kernel=kernel, dilation=dilation, padding=padding, dtype=dtype)


# The same with 5 x 5 kernels, whose tiles are two pixels apart.
LARGE = {
    "one pixel in padding": (1, 2, 3, (1, 1), 2),
    "one output": (1, 2, 3, (5, 5), 0),
    "one column": (2, 3, 4, (9, 1), 2),
    "whole tiles, whole vectors": (2, 3, 7, (32, 64), 2),
    "an output over the tiles": (1, 3, 7, (35, 19), 2),
    "an odd border": (2, 3, 4, (8, 9), ((1, 3), (3, 1))),
    "an input gradient of more padding than pixels": (3, 4, 6, (8, 8), 0),
    "padding wider than a filter": (1, 2, 3, (9, 8), ((5, 7), (6, 5))),
    "several blocks and parts of the filters": (1, 64, 70, (40, 60), 2),
    "tiles of many images in a block": (70, 5, 13, (4, 4), 2),
    "more threads than blocks": (1, 4, 40, (8, 8), 2),
    "a line of tiles over the block": (1, 40, 5, (9, 1100), 2),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LARGE)
def test_table_of_tilings_of_5_x_5_kernels(name, dtype):
    images, channels, filters, size, padding = LARGE[name]
    check_winograd(images, channels, filters, size, stride=1, padding=padding, kernel=5, dtype=dtype)


# Input gradients whose tiles overlap, wherever they would cost more too. Images, channels, filters, size of dx, and padding.
OVERLAPS = {
    "one gradient": (2, 3, 4, (0, 0), 0),
    "whole tiles": (3, 5, 7, (7, 15), 0),
    "a gradient over the tiles": (3, 5, 7, (8, 4), 0),
    "a gradient short of them": (3, 5, 7, (2, 10), 0),
    "padding": (4, 3, 5, (8, 5), 1),
    "padding as wide as a filter, on one side": (2, 3, 5, (6, 9), ((2, 0), (0, 2))),
    "one tile an image, of more images than a block": (200, 3, 19, (3, 3), 0),
    "rows of several vectors": (2, 3, 4, (5, 70), 0),
    "an image larger than a block": (2, 130, 120, (26, 30), 0),
    "parts of the filters": (1, 40, 70, (9, 6), 0),
}


@pytest.fixture
def overlapping(monkeypatch):
    monkeypatch.setattr(winograd_tiles, "_overlaps", lambda problem, machine: problem.direction == INPUT_GRADIENT)
    plan._cached.cache_clear()
    yield
    plan._cached.cache_clear()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OVERLAPS)
def test_tiles_that_overlap(overlapping, name, dtype, kernel, groups):
    images, channels, filters, size, padding = OVERLAPS[name]
    rng = np.random.default_rng(7)
    size = tuple(kernel + n for n in size)
    win = window(size, kernel, stride=1, padding=padding)
    shape = (images, groups * channels, *size)
    w = rng.standard_normal((groups * filters, channels, kernel, kernel)).astype(dtype)
    dy = rng.standard_normal((images, groups * filters, *win.output)).astype(dtype)
    onto = rng.standard_normal(shape).astype(dtype)
    options = plan.conv_options(1, padding, 1, groups, None, "winograd")
    expected = reference.conv_backward_input(dy, w, shape, win, groups)

    def compute():
        add = conv.bound_backward_input_onto(2, shape, w.shape, np.dtype(dtype), options)
        return [conv.backward_input(2, dy, w, shape, options), add(dy, w, onto)]

    assert_kernel(compute, [expected, expected + onto], [w.size // channels] * 2, f"{name}, {kernel}x{kernel}", dtype)


# Kernel, images, channels, filters, size and padding; each phase of an image is half of it.
PHASES = {
    "one pixel in padding": (5, 1, 2, 3, (1, 1), 2),
    "one output": (4, 1, 2, 3, (4, 4), 0),
    "one column": (5, 2, 3, 4, (9, 1), 2),
    "whole tiles, whole vectors": (4, 2, 3, 7, (32, 64), 1),
    "an output over the tiles": (5, 1, 3, 7, (35, 19), 2),
    "phases of unequal size": (6, 2, 3, 5, (9, 13), 2),
    "fewer taps than phases have room for": (4, 2, 3, 5, (10, 12), 0),
    "an odd border": (4, 2, 3, 4, (8, 9), ((1, 2), (2, 1))),
    "a kernel of unequal sides": ((3, 6), 2, 5, 4, (8, 19), ((0, 1), (2, 0))),
    "padding wider than a filter": (5, 1, 2, 3, (9, 8), ((5, 7), (6, 5))),
    # All gradients are zero, and rounding is held to that of two products.
    "padding alone": (4, 1, 5, 1, (7, 1), ((0, 0), (4, 0))),
    # 19 filters are two tiles of rows, and 4 x 19 gradients are not whole tiles of a phase.
    "tiles of rows in two phases": (5, 3, 19, 19, (16, 16), 2),
    "several blocks and parts of the filters": (5, 1, 64, 70, (40, 60), 2),
    "tiles of many images in a block": (4, 70, 5, 13, (4, 4), 1),
    "more threads than blocks": (5, 1, 4, 40, (8, 8), 2),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PHASES)
def test_table_of_phases(name, dtype):
    kernel, images, channels, filters, size, padding = PHASES[name]
    check_winograd(images, channels, filters, size, stride=2, padding=padding, kernel=kernel, dtype=dtype)


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_phases_of_groups(kernel, groups):
    check_winograd(3, 4 * groups, 5 * groups, (13, 10), stride=2, padding=kernel // 2, kernel=kernel, groups=groups)


# Lines of more tiles than a shard of the weight gradient and than a block hold, and fewer lines than there could be shards.
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("images", "size"), [(1, (4, 300)), (1, (5, 700)), (2, (9, 521)), (1, (40, 300))])
def test_images_of_few_long_lines(images, size, kernel, groups):
    check_winograd(images, 4, 6, size, stride=1, padding=kernel // 2, kernel=kernel, groups=groups)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("padding", [1, 0, 2, ((0, 2), (2, 0)), ((3, 1), (1, 3))], ids=str)
def test_small_images(isa, dtype, padding):
    """Of one tile, as many as fill the vectors or one more or less; and of few pixels in a row, with every border."""
    vector, _ = edges(isa, dtype)
    top, left = (sum(pads) for pads in (padding if isinstance(padding, tuple) else ((padding,) * 2,) * 2))
    for images in beside(vector):
        check_winograd(images, 3, 5, (6 - top or 1, 6 - left or 1), stride=1, padding=padding, dtype=dtype, seed=images)
    for side in range(1, 10):
        if min(side + top, 10 - side + left) >= 3:
            how = {"stride": 1, "padding": padding, "dtype": dtype, "seed": side}
            check_winograd(2, vector + 1, max(1, vector - 1), (side, 10 - side), **how)


# Up to four threads transform few filters each for itself; more threads, and many filters, share them, but where tiles are few.
# The weight gradient of many channels is computed part by part of them, as many as there are threads.
@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize(
    ("channels", "filters", "size"), [(16, 32, (9, 10)), (72, 80, (9, 10)), (72, 80, (30, 41)), (130, 101, (9, 10))]
)
def test_filters_of_each_thread_and_of_all(isa, channels, filters, size):
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((3, channels, *size), np.float32), rng.standard_normal((filters, channels, 3, 3), np.float32)
    how = {"padding": 1, "algorithm": "winograd"}
    results = []
    for threads in (1, 2, 4, 5, 9):
        with kernels.using(isa=isa, threads=threads), threads_at_every_size(), memory.poisoned():
            y = functional.conv2d(x, w, **how)
            dx = functional.conv2d_backward_input(y, w, x.shape, **how)
            results.append((y, dx, *functional.conv2d_backward_weight(y, x, w.shape, **how)))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(3, 1, 1), (3, 2, 1), (5, 1, 1), (4, 2, 1), (5, 2, 1), (3, 1, 2), (4, 1, 2), (3, 1, 5)]
)
def test_an_image_has_the_same_bits_in_every_batch(kernel, stride, dilation):
    """Blocks of tiles run over the ends of images; no tile knows of its neighbours."""
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((9, 5, 11, 13), np.float32), rng.standard_normal((7, 5, kernel, kernel), np.float32)
    how = {"stride": stride, "padding": dilation, "dilation": dilation, "algorithm": "winograd"}
    y = functional.conv2d(x, w, **how)
    dx = functional.conv2d_backward_input(y, w, x.shape, **how)
    for n in range(len(x)):
        one = slice(n, n + 1)
        np.testing.assert_array_equal(functional.conv2d(x[one], w, **how), y[one])
        np.testing.assert_array_equal(functional.conv2d_backward_input(y[one], w, (1, *x.shape[1:]), **how), dx[one])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dilation", [(3, 1), (1, 2), (2, 2), (4, 3)])
@pytest.mark.parametrize(("channels", "filters", "kernel"), [(4, 6, 3), (48, 40, 3), (24, 32, 4), (128, 64, 5)])
def test_phases_are_planned_as_their_image_is(channels, filters, kernel, dilation, isa):
    """Two or three phases of one image are few images, and those of two images are many."""
    rng = np.random.default_rng(4)
    x, w = (
        rng.standard_normal((6, channels, 13, 12), np.float32),
        rng.standard_normal((filters, channels, kernel, kernel), np.float32),
    )
    how = {"padding": dilation, "dilation": dilation, "algorithm": "winograd"}
    with kernels.using(isa=isa):
        for batches in ((1, 2, 3), (4, 5, 6)):
            y = [functional.conv2d(x[:n], w, **how) for n in batches]
            dx = [functional.conv2d_backward_input(part, w, (len(part), *x.shape[1:]), **how) for part in y]
            for one, other in ((0, 1), (0, 2)):
                np.testing.assert_array_equal(y[one][0], y[other][0])
                np.testing.assert_array_equal(dx[one][0], dx[other][0])


@pytest.mark.parametrize("how", [{}, {"stride": 2}, {"dilation": 2}, {"dilation": (1, 3)}], ids=str)
@pytest.mark.parametrize("algorithm", ["auto", "winograd"])
def test_no_images(algorithm, how):
    for kernel in (3, 4, 5):
        w = np.ones((6, 4, kernel, kernel), np.float32)
        options = {**how, "padding": kernel - 1, "algorithm": algorithm}
        x = np.zeros((0, 4, 12, 13), np.float32)
        y = functional.conv2d(x, w, **options)
        dx, dw, db = functional.conv2d_backward(y, x, w, **options)
        assert (len(y), dx.shape, dw.shape) == (0, x.shape, w.shape)
        assert not dw.any()
        assert not db.any()


def test_what_is_left_to_others_at_stride_2():
    x, refused = np.zeros((1, 2, 9, 9), np.float32), "'winograd' takes kernels of 3x3 to 5x5 at stride 2, and of 6x6 where"
    for kernel, padding in ((7, 3), (6, 1), (2, 0)):
        with pytest.raises(ConfigError, match=refused if kernel > 2 else "takes kernels of 3x3 and larger"):
            functional.conv2d(x, np.zeros((3, 2, kernel, kernel)), stride=2, padding=padding, algorithm="winograd")
    with pytest.raises(ConfigError, match="'winograd' takes kernels of 3x3 and larger with stride 1 or 2, dilated ones"):
        functional.conv2d(x, np.zeros((3, 2, 3, 3)), stride=(1, 2), algorithm="winograd")
