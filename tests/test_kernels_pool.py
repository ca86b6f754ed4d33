"""Max and average pooling: compiled kernels against the reference and PyTorch, for every instruction set and thread count."""

import numpy as np
import pytest
from helpers import DTYPES, assert_kernel, beside, edges, random_cases, windows
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from convlayers import functional, kernels
from convlayers.errors import ShapeError
from convlayers.kernels import reference
from convlayers.layers.max_pooling import MaxPool2d
from convlayers.shapes import check_pool, window
from convlayers.testing import assert_close, assert_gradient, on_every_machine, spread

NAN, INF = np.nan, np.inf


def check_max(x, win, seed=0):
    """Forward, index and gradient, and with a ReLU; the values are compared exactly, a maximum does not round."""
    y, index = reference.max_pool_forward(x, win)
    dy = np.random.default_rng(seed).standard_normal(y.shape).astype(x.dtype)

    def compute():
        y, index = functional.max_pool2d(x, win)
        bent, bent_index = functional.max_pool2d(x, win, relu=True)
        dx = functional.max_pool2d_backward(dy, index, x.shape, win)
        bent_dx = functional.max_pool2d_backward(dy, bent_index, x.shape, win)
        return y, index.astype(x.dtype), dx, bent, bent_index.astype(x.dtype), bent_dx

    taps = win.kernel[0] * win.kernel[1]
    expected = [y, index, reference.max_pool_backward(dy, index, x.shape, win), np.where(y < 0, 0, y)]
    expected += [np.where(y > 0, index, taps), reference.max_pool_backward(np.where(y > 0, dy, 0), index, x.shape, win)]
    assert_kernel(compute, expected, [1, 1, taps] * 2, f"max, x {x.shape}, {win}, seed {seed}", x.dtype)
    np.testing.assert_array_equal(functional.max_pool2d(x, win)[1], index)
    alone = on_every_machine(lambda: [functional.max_pool2d(x, win, with_index=False, relu=relu)[0] for relu in (False, True)])
    for isa, (actual, bent) in alone.items():
        np.testing.assert_array_equal(actual, y, err_msg=f"{isa}, without the index, x {x.shape}, {win}")
        np.testing.assert_array_equal(bent, np.where(y < 0, 0, y), err_msg=f"{isa}, with a ReLU, x {x.shape}, {win}")


def check_average(x, win, count_include_pad, seed=0):
    """Forward and gradient."""
    y = reference.avg_pool_forward(x, win, count_include_pad)
    dy = np.random.default_rng(seed).standard_normal(y.shape).astype(x.dtype)

    def compute():
        options = {"count_include_pad": count_include_pad}
        return functional.avg_pool2d(x, win, **options), functional.avg_pool2d_backward(dy, x.shape, win, **options)

    expected = [y, reference.avg_pool_backward(dy, x.shape, win, count_include_pad)]
    taps = win.kernel[0] * win.kernel[1]
    assert_kernel(compute, expected, [taps, taps], f"average, x {x.shape}, {win}, seed {seed}", x.dtype)


@st.composite
def poolings(draw, dilations=True):
    geometry = draw(windows(dilations=dilations, pad=2))
    size = geometry.pop("size")
    win = window(size, geometry.pop("kernel"), ceil_mode=draw(st.booleans()), **geometry)
    try:
        check_pool(size, win)
    except ShapeError:
        assume(False)
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 4)), *size)
    return shape, win, draw(st.sampled_from(DTYPES)), draw(st.integers(0, 99))


@settings(random_cases, max_examples=150)
@given(poolings(), st.sampled_from(["normal", "few values", "with NaN", "minus infinity"]))
def test_random_max_poolings(case, kind):
    shape, win, dtype, seed = case
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if kind == "few values":
        x = rng.integers(-1, 2, shape)
    elif kind == "with NaN":
        x[rng.random(shape) < 0.2] = NAN
    elif kind == "minus infinity":
        x[rng.random(shape) < 0.7] = -INF
    check_max(x.astype(dtype), win, seed)


@settings(random_cases, max_examples=150)
@given(poolings(dilations=False), st.booleans())
def test_random_average_poolings(case, count_include_pad):
    shape, win, dtype, seed = case
    check_average(np.random.default_rng(seed).standard_normal(shape).astype(dtype), win, count_include_pad, seed)


@settings(random_cases, max_examples=30)
@given(poolings(dilations=False), st.booleans())
def test_gradients_by_central_differences(case, count_include_pad):
    shape, win, _, seed = case
    rng = np.random.default_rng(seed)
    x = spread(shape, rng, np.float64)
    y, index = functional.max_pool2d(x, win)
    dy = rng.standard_normal(y.shape)
    dx = functional.max_pool2d_backward(dy, index, x.shape, win)
    assert_gradient(lambda v: (functional.max_pool2d(v, win)[0] * dy).sum(), x, dx, rng, "max")
    how = {"count_include_pad": count_include_pad}
    dx = functional.avg_pool2d_backward(dy, x.shape, win, **how)
    assert_gradient(lambda v: (functional.avg_pool2d(v, win, **how) * dy).sum(), x, dx, rng, "average")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", kernels.available())
def test_rows_beside_the_edges_of_a_vector(isa, dtype):
    vector, _ = edges(isa, dtype)
    rng = np.random.default_rng(5)
    for outputs in beside(vector):
        for stride in (1, 2, 3):
            win = window((4, (outputs - 1) * stride + 2), 2, stride=stride)
            x = rng.standard_normal((2, 3, 4, (outputs - 1) * stride + 2)).astype(dtype)
            check_max(x, win)
            check_average(x, win, True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", kernels.available())
def test_planes_whose_rows_share_a_vector(isa, dtype):
    # Windows that do not overlap, in batches that hold many planes and end within one; rows of half a vector go in pairs, of a
    # quarter in fours.
    vector, _ = edges(isa, dtype)
    rng = np.random.default_rng(11)
    for width in sorted({max(2, vector // 4), max(2, vector // 2), vector + 2}):
        for height in (4, 6, 5):
            x = rng.standard_normal((3, 101, height, width)).astype(dtype)
            win = window((height, width), 2, stride=2)
            check_max(x, win)
            check_average(x, win, True)


@pytest.mark.parametrize("kernel", [3, 7])
def test_rows_longer_than_a_batch(kernel):
    rng = np.random.default_rng(12)
    for win in (window((9, 600), kernel, stride=2, padding=1), window((9, 600), (kernel, 2), stride=(1, 2))):
        x = rng.standard_normal((2, 2, 9, 600)).astype(np.float32)
        check_max(x, win)
        check_average(x, win, False)


@pytest.mark.parametrize("dtype", ["uint8", "intc"])
def test_an_index_out_of_range_writes_nothing_out_of_bounds(dtype):
    rng = np.random.default_rng(13)
    for kernel, options in (
        ((2, 2), {"stride": 2}),
        ((3, 3), {"stride": 1, "padding": 1}),
        ((8, 8), {"stride": 3, "padding": 2}),
    ):
        x_shape, win = (2, 3, 9, 10), window((9, 10), kernel, **options)
        shape = (*x_shape[:2], *win.output)
        limits = np.iinfo(dtype)
        index = rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
        dx = functional.max_pool2d_backward(np.ones(shape, np.float32), index, x_shape, win)
        assert 0 <= dx.sum() <= index.size
        index[...] = limits.max
        assert functional.max_pool2d_backward(np.ones(shape, np.float32), index, x_shape, win).sum() == 0


def test_in_inference_the_layer_finds_the_index_when_a_gradient_is_asked():
    layer, x = MaxPool2d(2), spread((2, 3, 6, 8), np.random.default_rng(14))
    y, cache = layer.forward(x, training=False)
    expected, trained = layer.forward(x, training=True)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(layer.backward(y, cache), layer.backward(y, trained))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_kernel_larger_than_the_image_hangs_over_under_ceil_mode(dtype):
    x = np.random.default_rng(10).standard_normal((2, 3, 4, 5)).astype(dtype)
    win = window((4, 5), 6, stride=3, ceil_mode=True)
    assert win.output == (1, 1)
    check_max(x, win)
    for include in (True, False):
        check_average(x, win, include)
        average = functional.avg_pool2d(x, win, count_include_pad=include)
        assert_close(average, x.mean(axis=(2, 3), keepdims=True), 20, "average over what there is")


def test_nan_wins_and_the_first_nan_is_taken():
    x = np.array([[1, NAN, 3], [NAN, 9, 2], [INF, 0, 1]], np.float32)[None, None]
    y, index = functional.max_pool2d(x, window((3, 3), 2, stride=1))
    np.testing.assert_array_equal(y[0, 0], [[NAN, NAN], [NAN, 9]])
    np.testing.assert_array_equal(index[0, 0], [[1, 0], [0, 0]])


def test_of_equal_values_the_first_in_row_order_gets_the_gradient():
    x = np.array([[2, 7, 7], [7, 7, 1], [0, 7, 7]], np.float32)[None, None]
    win = window((3, 3), 3)
    y, index = functional.max_pool2d(x, win)
    dx = functional.max_pool2d_backward(np.full((1, 1, 1, 1), 5, np.float32), index, x.shape, win)
    assert (y.item(), index.item()) == (7, 1)
    np.testing.assert_array_equal(dx[0, 0], [[0, 5, 0], [0, 0, 0], [0, 0, 0]])


def test_padding_loses_against_minus_infinity():
    x = np.full((1, 1, 2, 2), -INF, np.float32)
    win = window((2, 2), 2, stride=1, padding=1)
    y, index = functional.max_pool2d(x, win)
    dx = functional.max_pool2d_backward(np.ones_like(y), index, x.shape, win)
    assert (y == -INF).all()
    np.testing.assert_array_equal(index[0, 0], [[3, 2, 2], [1, 0, 0], [1, 0, 0]])
    assert dx.sum() == y.size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", kernels.available())
def test_squares_that_tile_their_planes(isa, dtype):
    """Rows beside the edges of vectors, and planes beyond a unit; one pixel more or less is left to lines."""
    vector, _ = edges(isa, dtype)
    rng = np.random.default_rng(8)
    for q in {1, 2, *beside(vector), *beside(2 * vector)} - {0}:
        for planes, height, width in ((1, 2, 2 * q), (3, 4, 2 * q), (2, 5, 2 * q), (2, 6, 2 * q + 1)):
            x = rng.standard_normal((1, planes, height, width)).astype(dtype)
            check_max(x, window(x.shape[2:], 2))
    x = rng.standard_normal((2, 300, 6, 8)).astype(dtype)
    check_max(x, window(x.shape[2:], 2))


@pytest.mark.parametrize(("kernel", "bytes_each"), [((15, 17), 1), ((1, 255), 1), ((1, 256), 4), ((16, 16), 4)])
def test_index_has_room_for_every_tap(kernel, bytes_each):
    rng = np.random.default_rng(6)
    x = rng.standard_normal((1, 2, kernel[0] + 3, kernel[1] + 2)).astype(np.float32)
    x[..., -4:, -3:] += 10  # maxima at the last taps
    win = window(x.shape[2:], kernel, stride=1)
    assert functional.max_pool2d(x, win)[1].itemsize == bytes_each
    check_max(x, win)


@pytest.mark.parametrize("include", [True, False])
def test_average_of_the_border_counts_what_it_says(include):
    x = np.ones((1, 1, 3, 3), np.float32)
    y = functional.avg_pool2d(x, window((3, 3), 3, stride=2, padding=1, ceil_mode=True), count_include_pad=include)
    np.testing.assert_allclose(y[0, 0], np.full((2, 2), 4 / 9 if include else 1), rtol=1e-6)


def _torch_case(rng):
    kernel = tuple(int(k) for k in rng.integers(1, 5, 2))
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
    stride = tuple(int(s) for s in rng.integers(1, 5, 2))
    size = tuple(int(n) for n in rng.integers(4, 12, 2))
    return size, kernel, {"stride": stride, "padding": padding, "ceil_mode": bool(rng.integers(2))}


@pytest.mark.parametrize("seed", range(60))
def test_against_torch(seed):
    torch = pytest.importorskip("torch", reason="PyTorch is the second judge where it is installed")
    rng = np.random.default_rng(seed)
    size, kernel, options = _torch_case(rng)
    win = window(size, kernel, **options)
    x = rng.integers(-3, 4, (2, 3, *size)).astype(np.float64)
    tensor = torch.from_numpy(x).requires_grad_()
    expected, places = torch.nn.functional.max_pool2d(tensor, kernel, **options, return_indices=True)
    y, index = functional.max_pool2d(x, win)
    np.testing.assert_array_equal(y, expected.detach().numpy(), err_msg=f"{win}")
    rows = np.arange(win.output[0])[:, None] * win.stride[0] - win.padding[0][0] + index // kernel[1]
    cols = np.arange(win.output[1]) * win.stride[1] - win.padding[1][0] + index % kernel[1]
    np.testing.assert_array_equal(rows * size[1] + cols, places.numpy(), err_msg=f"{win}")
    for include in (True, False):
        expected = torch.nn.functional.avg_pool2d(tensor, kernel, **options, count_include_pad=include)
        y = functional.avg_pool2d(x, win, count_include_pad=include)
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-12, atol=1e-12, err_msg=f"{win}, {include}")
        dy = rng.standard_normal(y.shape)
        (dx,) = torch.autograd.grad(expected, tensor, torch.from_numpy(dy))
        actual = functional.avg_pool2d_backward(dy, x.shape, win, count_include_pad=include)
        np.testing.assert_allclose(actual, dx.numpy(), rtol=1e-12, atol=1e-12, err_msg=f"{win}, {include}")


def test_nan_and_dilation_against_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is the second judge where it is installed")
    rng = np.random.default_rng(7)
    x = rng.standard_normal((2, 3, 12, 11))
    x[rng.random(x.shape) < 0.1] = NAN
    options = {"stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True}
    expected = torch.nn.functional.max_pool2d(torch.from_numpy(x), 3, **options).numpy()
    np.testing.assert_array_equal(functional.max_pool2d(x, window((12, 11), 3, **options))[0], expected)
