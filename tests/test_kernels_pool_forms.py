"""Poolings over one and three axes, norms, draws, global and adaptive ones: against the reference, on every machine setting."""

from itertools import product

import numpy as np
import pytest
from helpers import DTYPES, assert_kernel

from convlayers import functional
from convlayers.errors import ShapeError
from convlayers.kernels import reference
from convlayers.shapes import window

NAN = np.nan
# Size and window: overlap, dilation, padding on one side, ceil_mode, one pixel.
GEOMETRIES = [
    ((9,), {"kernel": 3, "stride": 2, "padding": 1}),
    ((40,), {"kernel": 2, "dilation": 3, "padding": ((2, 0),)}),
    ((11,), {"kernel": 4, "stride": 3, "ceil_mode": True}),
    ((1,), {"kernel": 1}),
    ((4, 5, 6), {"kernel": 2}),
    ((5, 4, 7), {"kernel": (3, 2, 3), "stride": (2, 1, 3), "padding": (1, 0, 1), "ceil_mode": True}),
    ((6, 5, 17), {"kernel": (2, 3, 1), "stride": (1, 2, 1), "dilation": (3, 1, 1), "padding": ((1, 2), (0, 1), (0, 0))}),
    ((1, 1, 1), {"kernel": 3, "padding": 1}),
]
CASES = [pytest.param(size, window(size, **how), id=f"{size}-{how}") for size, how in GEOMETRIES]
PLANES = [
    pytest.param(size, window(size, **how), id=f"{size}-{how}")
    for size, how in [
        ((6, 7), {"kernel": 2}),
        ((7, 5), {"kernel": 3, "stride": 2, "padding": ((1, 0), (0, 1)), "ceil_mode": True}),
        ((5, 19), {"kernel": (2, 3), "stride": 1, "padding": "same"}),
        ((1, 1), {"kernel": 1}),
    ]
]
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def drawn(size, dtype, kind="normal", seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 3, *size))
    if kind == "few values":
        x = rng.integers(-1, 2, x.shape)
    elif kind == "with NaN":
        x[rng.random(x.shape) < 0.1] = NAN
    elif kind == "positive":
        x = np.maximum(x, 0)
        x[0, 0] = 0
    return x.astype(dtype)


def gradient(y, dtype):
    return np.random.default_rng(1).standard_normal(y.shape).astype(dtype)


@every_dtype
@pytest.mark.parametrize("kind", ["normal", "few values", "with NaN"])
@pytest.mark.parametrize(("size", "win"), CASES)
def test_max_over_signals_and_volumes(size, win, kind, dtype):
    x = drawn(size, dtype, kind)
    y, index = reference.max_pool_forward(x, win)
    dy = gradient(y, dtype)

    def compute():
        y, index = functional.max_pool(x, win)
        return y, functional.max_pool_backward(dy, index, x.shape, win), functional.max_pool(x, win, with_index=False)[0]

    expected = [y, reference.max_pool_backward(dy, index, x.shape, win), y]
    assert_kernel(compute, expected, [1, y.size, 1], f"max, {win}", dtype)


@every_dtype
@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize(("size", "win"), CASES)
def test_averages_over_signals_and_volumes(size, win, include, dtype):
    x = drawn(size, dtype)
    y = reference.avg_pool_forward(x, win, include)
    dy = gradient(y, dtype)

    def compute():
        how = {"count_include_pad": include}
        return functional.avg_pool(x, win, **how), functional.avg_pool_backward(dy, x.shape, win, **how)

    assert_kernel(compute, [y, reference.avg_pool_backward(dy, x.shape, win, include)], [27, 27], f"average, {win}", dtype)


@every_dtype
@pytest.mark.parametrize("p", [1, 2, 3, 2.5])
@pytest.mark.parametrize(("size", "win"), [*PLANES, *CASES])
def test_norms(size, win, p, dtype):
    x = drawn(size, dtype)
    x[0, 0] = 0  # windows of norm 0
    y = reference.lp_pool_forward(x, win, p)
    dy = gradient(y, dtype)

    def compute():
        y = functional.lp_pool(x, win, p)
        return y, functional.lp_pool_backward(dy, x, y, win, p)

    assert_kernel(compute, [y, reference.lp_pool_backward(dy, x, win, p)], [100, 100], f"norm {p}, {win}", dtype)


@every_dtype
@pytest.mark.parametrize(("size", "win"), PLANES)
def test_stochastic(size, win, dtype):
    x = drawn(size, dtype, "positive")
    draws = np.random.default_rng(2).random((2, 3, *win.output), np.float32)
    y, index = reference.stochastic_pool_forward(x, win, draws)
    mean = reference.expected_pool_forward(x, win)
    dy = gradient(y, dtype)

    def compute():
        y, index = functional.stochastic_pool(x, win, draws)
        mean, total = functional.expected_pool(x, win)
        to_drawn = functional.stochastic_pool_backward(dy, y, index, x.shape, win)
        return y, to_drawn, mean, functional.expected_pool_backward(dy, x, mean, total, win)

    to_drawn = reference.max_pool_backward(dy * (y > 0), index, x.shape, win)
    expected = [y, to_drawn, mean, reference.expected_pool_backward(dy, x, win)]
    assert_kernel(compute, expected, [1, 9, 100, 1000], f"stochastic, {win}", dtype)


@every_dtype
@pytest.mark.parametrize("size", [(7,), (1,), (300,), (6, 5), (33, 17), (3, 4, 5), (1, 1, 1)])
def test_global(size, dtype):
    for kind in ("normal", "few values", "with NaN"):
        x = drawn(size, dtype, kind)
        y, index = reference.global_max_pool_forward(x)
        average = reference.global_avg_pool_forward(x)
        dy = gradient(y, dtype)

        def compute(x=x, dy=dy):
            y, index = functional.global_max_pool(x)
            average = functional.global_avg_pool(x)
            back = functional.global_max_pool_backward(dy, index, x.shape)
            return y, back, average, functional.global_avg_pool_backward(dy, x.shape)

        back = reference.global_max_pool_backward(dy, index, x.shape)
        expected = [y, back, average, reference.global_avg_pool_backward(dy, x.shape)]
        assert_kernel(compute, expected, [1, 1, x.size, 1], f"global over {size}, {kind}", dtype)
        np.testing.assert_array_equal(functional.global_max_pool(x)[1], index)


def assert_adaptive(x, output, dtype):
    y, average = reference.adaptive_max_pool_forward(x, output), reference.adaptive_avg_pool_forward(x, output)
    dy = gradient(y, dtype)

    def compute():
        y, index = functional.adaptive_max_pool(x, output)
        average = functional.adaptive_avg_pool(x, output)
        back = functional.adaptive_max_pool_backward(dy, index, x.shape)
        return y, back, average, functional.adaptive_avg_pool_backward(dy, x.shape)

    expected = [y, reference.adaptive_max_pool_backward(dy, x), average, reference.adaptive_avg_pool_backward(dy, x.shape)]
    assert_kernel(compute, expected, [1, 8, x.size, 8], f"adaptive, {x.shape[2:]} to {output}", dtype)


@every_dtype
@pytest.mark.parametrize("size", [(7,), (11,), (5, 8), (6, 6), (4, 3, 5)])
def test_adaptive_to_every_size(size, dtype):
    outputs = product(*(range(1, n + 1) for n in size))
    for number, output in enumerate(outputs):
        x = drawn(size, dtype, ("normal", "few values", "with NaN")[number % 3], number)
        assert_adaptive(x, output, dtype)


BESIDE_VECTORS = [
    ((3, width), (2, outputs))
    for width in (3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 67)
    for outputs in (1, 2, 3, 5)
    if outputs < width
]


@every_dtype
@pytest.mark.parametrize(("size", "output"), [*BESIDE_VECTORS, ((70, 3), (9, 2)), ((2, 5, 33), (2, 3, 4)), ((1, 300), (1, 7))])
def test_adaptive_beside_vectors(size, output, dtype):
    for kind in ("normal", "few values", "with NaN"):
        assert_adaptive(drawn(size, dtype, kind, 0), output, dtype)


@pytest.mark.parametrize(
    "index",
    [None, (None,), (np.zeros((1, 9, 9)),), (np.zeros((1, 9, 9), np.int64),), (np.zeros((1, 9, 8), np.intc),)],
    ids=["none", "no array", "floats", "long", "shape"],
)
def test_an_index_of_another_kind(index):
    with pytest.raises(ShapeError, match="adaptive_max_pool: index must be what the forward pass gave"):
        functional.adaptive_max_pool_backward(np.ones((1, 1, 9, 9), np.float32), index, (1, 1, 10, 10))


def test_an_index_of_another_image():
    """Pixels that are not there get nothing."""
    x = np.arange(4900, dtype=np.float32).reshape(1, 1, 70, 70)
    _, index = functional.adaptive_max_pool(x, (9, 9))
    for where in (index, (np.full((1, 9, 9), 2**30, np.intc),), (np.full((1, 9, 9), -1, np.intc),)):
        dx = functional.adaptive_max_pool_backward(np.ones((1, 1, 9, 9), np.float32), where, (1, 1, 10, 10))
        assert dx.sum() <= 81
        assert np.isin(dx, range(82)).all()
