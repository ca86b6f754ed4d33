"""Rows and columns of taps by Winograd: against the reference, for every instruction set, thread count and data type."""

import numpy as np
import pytest
from helpers import DTYPES, beside, check_winograd, edges, random_cases
from hypothesis import given, settings
from hypothesis import strategies as st

import convlayers as cl
from convlayers import functional, kernels
from convlayers.errors import ConfigError
from convlayers.functional.plan import plan_conv
from convlayers.kernels import memory
from convlayers.testing import assert_close
from convlayers.testing.machine import threads_at_every_size

ISAS = kernels.available()


@st.composite
def lines(draw):
    """Kernels of one part of taps and of several, whole or not; outputs of every remainder by their tiles, beside vectors of
    them; channels and filters beside the edges of vectors and of tiles."""
    vector, rows = edges(draw(st.sampled_from(ISAS)), dtype := draw(st.sampled_from(DTYPES)))
    taps = draw(st.integers(2, 12))
    spans = st.integers(1, 30) | st.sampled_from([n * side for n in beside(vector)[:4] for side in (4, 6)])
    size, padding = [draw(spans), draw(st.integers(1, 9))], [(draw(st.integers(0, taps)), draw(st.integers(0, taps))), (0, 0)]
    if draw(st.booleans()):
        padding[1] = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    dilation = [draw(st.just(1) | st.integers(1, 4)), 1]
    size[0] = max(size[0], dilation[0] * (taps - 1) + 1 - sum(padding[0]))
    along = draw(st.sampled_from((1, -1)))
    groups = draw(st.integers(1, 3))
    return {
        "images": draw(st.integers(1, 4)),
        "channels": groups * draw(st.integers(2, 6) | st.sampled_from(beside(vector)[1:4] or [2])),
        "filters": groups * draw(st.integers(1, 6) | st.sampled_from(beside(rows))),
        "size": tuple(size[::along]),
        "padding": tuple(padding[::along]),
        "dilation": tuple(dilation[::along]),
        "kernel": (taps, 1)[::along],
        "groups": groups,
        "dtype": dtype,
        "seed": draw(st.integers(0, 99)),
    }


@settings(random_cases, max_examples=500)
@given(lines())
def test_random_lines(case):
    check_winograd(**case)


# Images, channels, filters, size, taps and padding along the size's first axis.
TABLE = {
    "one pixel in padding": (1, 2, 3, (1, 1), 3, 1),
    "one output": (1, 2, 3, (3, 5), 3, 0),
    "a tap too few for two parts": (2, 3, 7, (31, 4), 7, 3),
    "the most taps": (1, 3, 4, (40, 3), 31, 15),
    "whole tiles": (2, 3, 7, (48, 16), 3, 1),
    "an output over the tiles": (2, 3, 7, (49, 17), 3, 1),
    "padding wider than a kernel": (1, 2, 3, (9, 8), 4, (5, 6)),
    "a long row, in several segments": (1, 20, 17, (900, 1), 5, 2),
    "wide rows of columns, in several segments": (1, 4, 5, (9, 150), 3, 1),
    "tiles of many images in a block": (70, 5, 13, (6, 2), 3, 1),
    "several blocks, more threads than they are": (1, 64, 40, (700, 1), 3, 1),
    # Sums over a megabyte: weight gradients by parts of the channels; filters made tile by tile of rows.
    "parts of the channels": (2, 257, 180, (20, 2), 3, 1),
    "fleeting filters": (1, 150, 260, (12, 1), 9, 4),
}


@pytest.mark.parametrize("along", [1, -1], ids=["column", "row"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TABLE)
def test_table_of_lines(name, dtype, along):
    images, channels, filters, size, taps, pads = TABLE[name]
    padding = (pads if isinstance(pads, tuple) else (pads, pads), (0, 0))
    check_winograd(images, channels, filters, size[::along], kernel=(taps, 1)[::along], padding=padding[::along], dtype=dtype)


# Size, kernel and padding: long rows of which a block keeps its own part alone, and images narrower than half a vector between
# wide margins, where a row of gradients is several segments.
LONG = {
    "a margin at each end": ((1, 4000), (1, 3), ((0, 0), (7, 5))),
    "no margin": ((2, 2500), (1, 5), 0),
    "several parts": ((1, 3000), (1, 9), ((1, 0), (4, 4))),
    "less padding than none, backwards": ((1, 2100), (1, 2), ((0, 0), (9, 0))),
    "columns of wide images": ((7, 1500), (3, 1), ((1, 1), (0, 2))),
    "one column, far from both sides": ((9, 1), (3, 1), ((1, 1), (10, 80))),
    "one value, far from both ends": ((1, 1), (1, 3), ((0, 0), (300, 300))),
    "two values, farther behind": ((2, 2), (1, 7), ((0, 0), (2, 400))),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LONG)
def test_long_rows(name, dtype):
    size, kernel, padding = LONG[name]
    check_winograd(2, 5, 6, size, kernel=kernel, padding=padding, dtype=dtype)
    if name in ("a margin at each end", "columns of wide images"):
        check_winograd(1, 130, 40, size, kernel=kernel, padding=padding, dtype=dtype)


@pytest.mark.parametrize(("kernel", "padding"), [((1, 3), (0, 1)), ((3, 1), (1, 0)), ((1, 7), (0, 3)), ((9, 1), (4, 0))])
def test_an_image_has_the_same_bits_in_every_batch(kernel, padding):
    """Blocks of tiles run over the ends of images; no tile knows of its neighbours."""
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((9, 5, 11, 13), np.float32), rng.standard_normal((7, 5, *kernel), np.float32)
    how = {"padding": padding, "algorithm": "winograd"}
    y = functional.conv2d(x, w, **how)
    dx = functional.conv2d_backward_input(y, w, x.shape, **how)
    for n in range(len(x)):
        one = slice(n, n + 1)
        np.testing.assert_array_equal(functional.conv2d(x[one], w, **how), y[one])
        np.testing.assert_array_equal(functional.conv2d_backward_input(y[one], w, (1, *x.shape[1:]), **how), dx[one])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("channels", "filters", "kernel"), [(16, 32, (1, 3)), (72, 80, (7, 1)), (130, 201, (1, 3))])
def test_the_same_bits_for_any_number_of_threads(channels, filters, kernel, isa):
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((3, channels, 30, 41), np.float32), rng.standard_normal((filters, channels, *kernel), np.float32)
    how = {"padding": [taps // 2 for taps in kernel], "algorithm": "winograd"}
    results = []
    for threads in (1, 2, 5, 9):
        with kernels.using(isa=isa, threads=threads), threads_at_every_size(), memory.poisoned():
            y = functional.conv2d(x, w, **how)
            dx = functional.conv2d_backward_input(y, w, x.shape, **how)
            results.append((y, dx, *functional.conv2d_backward_weight(y, x, w.shape, **how)))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_sequences_are_planned_so():
    """Where channels are many; TCN's and WaveNet's layers with a dilation too."""
    for dilation in (1, 4):
        plan = plan_conv("forward", (16, 64, 1024), (64, 64, 3), "float32", padding=dilation, dilation=dilation)
        assert plan.algorithm == "winograd"
    assert plan_conv("forward", (16, 4, 1024), (4, 4, 3), "float32", padding=1).algorithm == "direct"


@pytest.mark.parametrize(("padding", "dilation"), [(((2, 0),), 1), (((8, 0),), 4), (((0, 2),), 1)])
def test_causal_sequences_do_not_know_what_comes_later(padding, dilation):
    """Not in the last bit, whatever the sizes: `auto` leaves them to the definition."""
    rng, how = np.random.default_rng(9), {"padding": padding, "dilation": dilation}
    x, w = rng.standard_normal((16, 64, 500), np.float32), rng.standard_normal((64, 64, 3), np.float32)
    before, behind = slice(0, 250), slice(250, None)
    seen, unseen = (before, behind) if padding[0][1] == 0 else (behind, before)
    other = x.copy()
    other[:, :, unseen] = np.inf
    y, changed = functional.conv1d(x, w, **how), functional.conv1d(other, w, **how)
    np.testing.assert_array_equal(changed[:, :, seen], y[:, :, seen])
    assert plan_conv("forward", x.shape, w.shape, "float32", padding=1).algorithm == "winograd"


def fused_sequence() -> cl.Model:
    """A residual block of a sequence: normalization, sum and ReLU fold into the convolutions in inference."""
    x = cl.Input((40, 100))
    y = cl.ReLU()(cl.BatchNorm1d()(cl.Conv1d(40, 3, padding=1, algorithm="winograd")(x)))
    y = cl.BatchNorm1d()(cl.Conv1d(40, 5, padding=2, algorithm="winograd")(y))
    return cl.Model(x, cl.ReLU()(cl.Add()(y, x)))


def test_what_follows_a_sequence_is_part_of_its_last_pass():
    model, rng = fused_sequence(), np.random.default_rng(6)
    for _ in range(3):
        model.forward(rng.standard_normal((8, 40, 100), np.float32), training=True)
    assert [task.affine is not None for task in model.passes.tasks_of_inference] == [True, True]
    x = rng.standard_normal((3, 40, 100), np.float32)
    expected, _ = model.forward(x, training=False)
    for _ in range(3):
        assert_close(model(x), expected, 5 * 40 + 3 * 40, "a residual block")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", [(1, 3), (1, 9), (3, 1), (7, 1)])
@pytest.mark.parametrize("shape", [(2, 3, 9, 9), (3, 5, 13, 24), (40, 16, 10, 9), (1, 2, 9, 400)])
def test_a_residual_beside_the_edges_of_tiles(shape, kernel, isa):
    rng = np.random.default_rng(6)
    layer = cl.Conv2d(6, kernel, padding=[taps // 2 for taps in kernel], algorithm="winograd")
    output = layer.build(shape[1:], rng)
    x = rng.standard_normal(shape).astype(np.float32)
    residual = rng.standard_normal((shape[0], *output)).astype(np.float32)
    with kernels.using(isa=isa), memory.poisoned():
        plain, _ = layer.forward(x, training=False)
        for threads in (1, 2, 5):
            with kernels.using(threads=threads):
                y, _ = layer.forward(x, training=False, residual=residual, relu=True)
            np.testing.assert_array_equal(y, np.maximum(plain + residual, 0), err_msg=f"{threads} threads")


def test_what_is_left_to_others():
    x = np.zeros((1, 4, 40, 40), np.float32)
    for kernel in ((1, 32), (33, 1)):
        with pytest.raises(ConfigError, match="rows and columns of 2 to 31 taps with stride 1 alone; direct, fft, einsum can"):
            functional.conv2d(x, np.zeros((2, 4, *kernel)), algorithm="winograd")
    with pytest.raises(
        ConfigError, match="'winograd' takes no rows and columns of taps where each channel has filters of its own"
    ):
        functional.conv2d(x, np.zeros((4, 1, 1, 3)), groups=4, algorithm="winograd")
