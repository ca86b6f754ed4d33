"""Convolution along one and three axes: against the reference, for every instruction set and thread count."""

import numpy as np
import pytest
from helpers import DTYPES, assert_kernel, random_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from convlayers import functional, kernels
from convlayers.errors import ArrayTypeError, ConfigError, ShapeError
from convlayers.functional.algorithms import direct, ranks
from convlayers.functional.plan import plan_conv
from convlayers.kernels import memory, reference
from convlayers.shapes import window

FORWARD = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
BACKWARD = {1: functional.conv1d_backward, 2: functional.conv2d_backward, 3: functional.conv3d_backward}


@st.composite
def convolutions(draw, rank):
    axes = []
    for _ in range(rank):
        # Axes along which nothing slides are common, and go another way in a volume.
        slides = draw(st.booleans())
        kernel, stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3))) if slides else (1, 1)
        before, after = (draw(st.integers(0, 2)), draw(st.integers(0, 2))) if slides else (0, 0)
        dilation = draw(st.integers(1, 2))
        least = max(1, dilation * (kernel - 1) + 1 - before - after)
        axes.append((kernel, stride, dilation, (before, after), draw(st.integers(least, least + 4))))
    names = ("kernel", "stride", "dilation", "padding", "size")
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


def check_conv(images, channels, filters, size, kernel, *, groups=1, dtype="float32", seed=0, algorithm="auto", **options):
    """Forward and all three gradients of one convolution."""
    rng, rank, options = np.random.default_rng(seed), len(size), {"stride": 1, **options}
    x = rng.standard_normal((images, channels, *size)).astype(dtype)
    w = rng.standard_normal((filters, channels // groups, *kernel)).astype(dtype)
    b = rng.standard_normal(filters).astype(dtype)
    win = window(size, kernel, **options)
    dy = rng.standard_normal((images, filters, *win.output)).astype(dtype)
    options |= {"groups": groups, "algorithm": algorithm}
    y = reference.conv_forward(x, w, b, win, groups)
    expected = [
        y,
        np.maximum(y, 0),
        reference.conv_backward_input(dy, w, x.shape, win, groups),
        *reference.conv_backward_weight(dy, x, w.shape, win, groups),
    ]
    taps, pixels = np.prod(kernel), images * np.prod(win.output)
    lengths = [channels // groups * taps + 1] * 2 + [filters // groups * taps, pixels, pixels]

    def compute():
        forward = [FORWARD[rank](x, w, b, **options, relu=relu) for relu in (False, True)]
        return *forward, *BACKWARD[rank](dy, x, w, **options)

    assert_kernel(compute, expected, lengths, f"x {x.shape}, w {w.shape}, {options}, seed {seed}", dtype)


@settings(random_cases, max_examples=60)
@given(convolutions(1))
def test_random_sequences(case):
    check_conv(**case)


@pytest.mark.parametrize("slab", [1, 5000, ranks._SLAB])
def test_random_volumes(slab, monkeypatch):
    """One depth of one image at a time, some at a time, and all at once."""
    monkeypatch.setattr(ranks, "_SLAB", slab)

    @settings(random_cases, max_examples=60)
    @given(convolutions(3))
    def check(case):
        check_conv(**case)

    check()


TABLE = {
    "one value": (1, 1, 1, (1,), (1,), {}),
    "one value in padding": (2, 3, 4, (1,), (5,), {"padding": "same"}),
    "padding wider than the kernel": (1, 2, 3, (2,), (2,), {"padding": ((5, 4),)}),
    "same, stride over the kernel": (2, 3, 4, (20,), (2,), {"padding": "same", "stride": 3}),
    "depthwise sequence": (2, 17, 17, (40,), (7,), {"padding": 3, "groups": 17}),
    "long sequence": (1, 1, 3, (3000,), (101,), {"dilation": 3}),
    "long sequence by transforms": (2, 2, 3, (300,), (64,), {"algorithm": "fft", "stride": 2, "padding": 9}),
    "one voxel": (1, 1, 1, (1, 1, 1), (1, 1, 1), {}),
    "one voxel in padding": (1, 2, 2, (1, 1, 1), (3, 3, 3), {"padding": 1}),
    "depths that are padding alone": (1, 2, 2, (1, 3, 3), (2, 2, 2), {"padding": ((3, 3), (0, 0), (0, 0))}),
    "stride over the depth": (2, 3, 4, (5, 4, 3), (2, 2, 2), {"stride": 9}),
    "frames on their own": (2, 3, 4, (5, 6, 7), (1, 3, 3), {"padding": "same"}),
    "through time alone": (2, 3, 4, (5, 6, 7), (3, 1, 1), {"padding": "same", "stride": (2, 1, 1)}),
    "through the last axis alone": (2, 3, 4, (5, 6, 7), (1, 1, 3), {"padding": "same"}),
    "each voxel on its own": (2, 6, 4, (3, 4, 5), (1, 1, 1), {"groups": 2}),
    "depthwise volume": (1, 5, 10, (4, 5, 6), (3, 3, 3), {"padding": 1, "groups": 5}),
    "volume by tiles": (1, 3, 4, (4, 9, 9), (2, 3, 3), {"algorithm": "winograd", "padding": 1}),
    "volume by transforms": (1, 2, 3, (4, 9, 9), (3, 5, 5), {"algorithm": "fft", "padding": 2}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TABLE)
def test_table_of_shapes(name, dtype):
    *sizes, options = TABLE[name]
    check_conv(*sizes, dtype=dtype, **options)


@pytest.mark.parametrize(
    ("size", "kernel"), [((50,), (3,)), ((4, 5, 6), (1, 1, 1)), ((4, 5, 6), (3, 1, 1)), ((4, 5, 6), (1, 1, 3))]
)
def test_no_copy_where_another_view_is_enough(size, kernel, monkeypatch):
    x, w = np.ones((2, 3, *size), np.float32), np.ones((4, 3, *kernel), np.float32)
    seen = []

    def forward(problem, relu):
        run = original(problem, relu)

        def watched(x, w, bias):
            seen.extend((x, w, run(x, w, bias)))
            return seen[-1]

        return watched

    original = direct.forward
    monkeypatch.setattr(direct, "forward", forward)
    y = FORWARD[len(size)](x, w, algorithm="direct")
    assert [np.shares_memory(a, b) for a, b in zip((x, w, y), seen, strict=True)] == [True] * 3
    assert {a.ndim for a in seen} == {4}


def test_the_memory_of_a_volume_is_bounded(monkeypatch):
    """Unrolled at once, x would take 27 MB thrice over, and dx as much."""
    x, w = np.ones((6, 4, 30, 96, 96), np.float32), np.ones((3, 4, 3, 3, 3), np.float32)
    dy, sizes = np.ones((6, 3, 28, 94, 94), np.float32), []

    def empty(shape, dtype):
        sizes.append((shape, int(np.prod(shape)) * dtype.itemsize))
        return original(shape, dtype)

    original = memory.empty
    monkeypatch.setattr(memory, "empty", empty)
    y = functional.conv3d(x, w, algorithm="direct")
    functional.conv3d_backward(dy, x, w, algorithm="direct")
    results = {y.shape, x.shape}
    assert max(nbytes for shape, nbytes in sizes if shape not in results) <= ranks._SLAB


def test_a_volume_gets_the_same_bits_in_every_batch():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((9, 3, 6, 40, 40), np.float32), rng.standard_normal((4, 3, 3, 3, 3), np.float32)
    dy = rng.standard_normal((9, 4, 4, 38, 38), np.float32)
    y, dx = functional.conv3d(x, w), functional.conv3d_backward_input(dy, w, x.shape)
    for n in (0, 8):
        np.testing.assert_array_equal(functional.conv3d(x[n : n + 1], w), y[n : n + 1])
        np.testing.assert_array_equal(functional.conv3d_backward_input(dy[n : n + 1], w, (1, *x.shape[1:])), dx[n : n + 1])


@pytest.mark.parametrize("isa", kernels.available())
def test_not_finite_voxels_stay_where_they_are_read(isa):
    x = np.zeros((1, 1, 5, 5, 9), np.float32)
    x[0, 0, 2, 2, 4] = np.nan
    with kernels.using(isa=isa):
        nan = np.isnan(functional.conv3d(x, np.ones((1, 1, 3, 3, 3)), padding=1, algorithm="direct"))[0, 0]
        nan_of_row = np.isnan(functional.conv1d(x[:, :, 2, 2], np.ones((1, 1, 3)), padding=1, algorithm="direct"))[0, 0]
    assert nan[1:4, 1:4, 3:6].all()
    assert nan.sum() == 27
    assert nan_of_row.nonzero()[0].tolist() == [3, 4, 5]


def test_plans_of_sequences_and_volumes():
    text = functional.explain_conv2d((8, 64, 1024), (64, 64, 301))
    assert [line.split(" (")[0] for line in text.splitlines()[::2]] == [
        "forward: fft", "input gradient: fft", "weight gradient: fft"
    ]  # fmt: skip
    assert plan_conv("forward", (8, 64, 1024), (64, 64, 3), "float32").algorithm == "winograd"
    assert plan_conv("forward", (8, 8, 1024), (4, 8, 3), "float32").algorithm == "direct"
    assert plan_conv("forward", (2, 64, 8, 28, 28), (64, 64, 3, 3, 3), "float32").algorithm == "winograd"


# What goes in


@pytest.mark.parametrize("rank", [1, 3])
def test_an_empty_batch(rank):
    x, w = np.zeros((0, 2, *(4,) * rank), np.float32), np.ones((3, 2, *(3,) * rank), np.float32)
    y = FORWARD[rank](x, w)
    assert y.shape == (0, 3, *(2,) * rank)
    dx, dw, db = BACKWARD[rank](y, x, w)
    assert (dx.shape, dw.shape, dw.any(), db.tolist()) == (x.shape, w.shape, False, [0, 0, 0])


FORMS = {
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "reversed": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "big-endian": lambda a: a.astype(">f4"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rank", [1, 3])
def test_arrays_of_every_form_are_read_and_never_written_to(rank, form):
    rng = np.random.default_rng(2)
    x, w = (rng.standard_normal((n, 3, *(5,) * rank), np.float32) for n in (2, 4))
    given = [FORMS[form](a) for a in (x, w)]
    for array in given:
        array.flags.writeable = False
    y = FORWARD[rank](x, w)
    np.testing.assert_array_equal(FORWARD[rank](*given), y)
    for actual, expected in zip(BACKWARD[rank](FORMS[form](y), *given), BACKWARD[rank](y, x, w), strict=True):
        np.testing.assert_array_equal(actual, expected)
    for array, before in zip(given, (x, w), strict=True):
        np.testing.assert_array_equal(array, before)


X = {rank: np.ones((1, 4, *(3,) * rank), np.float32) for rank in (1, 2, 3)}
W = {rank: np.ones((2, 4, *(3,) * rank), np.float32) for rank in (1, 2, 3)}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: functional.conv1d(X[2], W[1]),
            ShapeError,
            r"conv1d: x must have 3 axes \(N, C, L\); got shape \(1, 4, 3, 3\)",
        ),
        (lambda: functional.conv3d(X[2], W[3]), ShapeError, r"conv3d: x must have 5 axes \(N, C, D, H, W\); got shape"),
        (lambda: functional.conv3d(X[3], W[2]), ShapeError, "conv3d: w must have 5 axes"),
        (lambda: functional.conv1d(X[1], W[1][:, :3]), ShapeError, r"conv1d: weight \(2, 3, 3\) is for 3 input channels in 1"),
        (lambda: functional.conv3d(X[3], W[3], groups=3), ShapeError, "conv3d: groups 3 must divide the 4 input channels"),
        (
            lambda: functional.conv1d(X[1], W[1], dilation=2),
            ShapeError,
            r"conv1d: kernel 3 with dilation 2 \(it spans 5\) does",
        ),
        (lambda: functional.conv3d(X[3][:, :, :2], W[3]), ShapeError, "conv3d: kernel 3x3x3 does not fit the 2x3x3 input"),
        (lambda: functional.conv1d(X[1], W[1], [1.0]), ShapeError, r"conv1d: b must have shape \(2,\), one value a filter"),
        (lambda: functional.conv1d(X[1], W[1], stride=(1, 1)), ConfigError, "conv1d: stride is an int or 1 ints"),
        (lambda: functional.conv3d(X[3], W[3], padding=-1), ConfigError, "conv3d: padding must be at least 0; got -1"),
        (lambda: functional.conv3d(X[3], W[3], padding=True), ArrayTypeError, "conv3d: padding is an int or 3 ints"),
        (
            lambda: functional.conv1d(X[1], W[1], stride=2, algorithm="winograd"),
            ConfigError,
            "conv1d: algorithm 'winograd' takes kernels of 3x3 and larger with stride 1 or 2, dilated ones and rows and "
            "columns of 2 to 31 taps with stride 1 alone; direct, fft, einsum can",
        ),
        (
            lambda: functional.conv3d_backward(X[3], X[3], W[3]),
            ShapeError,
            r"conv3d: dy must have the output's shape \(1, 2, 1",
        ),
        (
            lambda: functional.conv1d_backward_input(X[1], W[1], (1, 4)),
            ShapeError,
            r"conv1d: x_shape must have 3 axes; got \(1",
        ),
        (lambda: functional.conv1d_backward_weight(X[1], X[1], (4,)), ShapeError, r"conv1d: w_shape must have 3 axes; got \(4"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
