"""Group and layer normalisation: compiled kernels against the reference and PyTorch, on every setting."""

import numpy as np
import pytest
from helpers import DTYPES, assert_kernel, beside, edges, random_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from convlayers import functional, kernels
from convlayers.errors import ArrayTypeError, ShapeError
from convlayers.kernels import reference
from convlayers.testing import assert_close

EPS = 1e-3  # groups may have two values that nearly meet: their quotient is then as inexact as their difference
BLOCK, ROWS, STRIP = 4096, 256, 32


def drawn(shape, weights, dtype, seed=0, mean=0.0):
    """x, dy, weight and bias; an x that float32 holds, so that what is compared is the arithmetic."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) + mean).astype(np.float32).astype(dtype)
    weight, bias = rng.uniform(-1.5, 1.5, (2, *weights)).astype(np.float32).astype(dtype)
    return x, rng.standard_normal(shape).astype(dtype), weight, bias


def check_groups(shape, groups, dtype, seed=0, mean=0.0):
    x, dy, weight, bias = drawn(shape, shape[1:2], dtype, seed, mean)
    expected = [
        reference.group_norm_forward(x, weight, bias, groups, EPS),
        *reference.group_norm_backward(dy, x, weight, groups, EPS),
    ]

    def compute():
        y, done = functional.group_norm(x, weight, bias, groups=groups, eps=EPS)
        return y, *functional.group_norm_backward(dy, done)

    assert_kernel(compute, expected, [x[0].size, x[0].size, x.size, x.size], f"x {shape}, {groups} groups, seed {seed}", dtype)


def check_layers(shape, axis, dtype, seed=0, mean=0.0):
    x, dy, weight, bias = drawn(shape, shape[axis:], dtype, seed, mean)
    expected = [
        reference.layer_norm_forward(x, weight, bias, axis, EPS),
        *reference.layer_norm_backward(dy, x, weight, axis, EPS),
    ]

    def compute():
        y, done = functional.layer_norm(x, weight, bias, axis=axis, eps=EPS)
        return y, *functional.group_norm_backward(dy, done)

    assert_kernel(compute, expected, [x[0].size, x[0].size, x.size, x.size], f"x {shape}, axis {axis}, seed {seed}", dtype)


@settings(random_cases, max_examples=60)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(2, 5),
    st.lists(st.integers(1, 9), max_size=3),
    st.sampled_from(DTYPES),
    st.integers(0, 99),
)
def test_random_shapes(n, groups, channels, size, dtype, seed):
    shape = (n, groups * channels, *size)
    check_groups(shape, groups, dtype, seed)
    check_layers(shape, 1 + seed % len(shape[1:]), dtype, seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", kernels.available())
def test_rows_and_planes_beside_the_edges_of_a_vector(isa, dtype):
    vector, _ = edges(isa, dtype)
    for size in {*beside(vector), *beside(4 * vector)} - {1}:
        check_groups((2, 3, size), 3, dtype)
        check_groups((2, 4, size), 2, dtype)
        check_layers((3, size), 1, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((2, 2, BLOCK - 1), 2), ((1, 2, BLOCK + 1), 1), ((2, 4, 3, 2 * BLOCK), 2), ((ROWS + 1, 6), 3), ((3, 2 * BLOCK), 4)],
)
def test_groups_beside_the_edges_of_a_block(shape, groups, dtype):
    check_groups(shape, groups, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((2, BLOCK + 1), 1), ((ROWS - 1, STRIP - 1), 1), ((ROWS, STRIP), 1), ((ROWS + 1, STRIP + 1), 1), ((5, 60, 7), 2)],
)
def test_layers_beside_the_edges_of_a_block_and_a_strip(shape, axis, dtype):
    check_layers(shape, axis, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mean", [1e4, -3e5])
def test_a_mean_far_larger_than_the_deviation(mean, dtype):
    check_groups((3, 4, 32, 32), 2, dtype, 1, mean)
    check_layers((3, 700), 1, dtype, 1, mean)
    x, _, weight, bias = drawn((3, 4, 32, 32), (4,), dtype, 1, mean)
    y, done = functional.group_norm(x, weight, bias, groups=2, eps=EPS)
    rows = x.reshape(6, -1).astype(np.float64)
    np.testing.assert_allclose(done.moments, [rows.mean(axis=1), rows.var(axis=1)], rtol=3e-6 if dtype == "float32" else 1e-9)
    assert_close(y, reference.group_norm_forward(x, weight, bias, 2, EPS), 4, "output")


def test_a_sample_has_the_same_bits_in_every_batch():
    x, dy, weight, bias = drawn((9, 6, 5, 7), (6,), "float32")
    for isa in kernels.available():
        with kernels.using(isa=isa):
            for given_weights, norm in (
                ((weight, bias), lambda *a: functional.group_norm(*a, groups=3)),
                ((np.ones(x.shape[1:]), np.zeros(x.shape[1:])), functional.layer_norm),
            ):
                y, done = norm(x, *given_weights)
                dx, *_ = functional.group_norm_backward(dy, done)
                for n in range(len(x)):
                    one, done = norm(x[n : n + 1], *given_weights)
                    assert one.tobytes() == y[n : n + 1].tobytes(), isa
                    assert functional.group_norm_backward(dy[n : n + 1], done)[0].tobytes() == dx[n : n + 1].tobytes(), isa


@pytest.mark.parametrize("odd", [0.0, np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_group(odd):
    torch = pytest.importorskip("torch", reason="PyTorch is the second judge where it is installed")
    x, dy, weight, bias = drawn((2, 4, 3, 5), (4,), "float64")
    x[1, 2, 0, 0] += odd
    tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in (x, weight, bias)]
    expected = torch.nn.functional.group_norm(tensors[0], 2, *tensors[1:], EPS)
    gradients = torch.autograd.grad(expected, tensors, torch.from_numpy(dy))
    y, done = functional.group_norm(x, weight, bias, groups=2, eps=EPS)
    actual = [y, *functional.group_norm_backward(dy, done)]
    for a, b in zip(actual, [expected.detach(), *gradients], strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-9, atol=1e-9)


def test_equal_values_give_the_bias():
    x = np.full((2, 4, 3), 7.3, np.float32)
    y, done = functional.group_norm(x, np.ones(4), np.arange(4), groups=2)
    np.testing.assert_array_equal(y, np.broadcast_to(np.arange(4, dtype=np.float32)[:, None], x.shape))
    assert not functional.group_norm_backward(np.ones_like(x), done)[0].any()


def test_worked_numbers():
    # Two values two apart have mean and variance 1 around 2; eps = 3 makes the root 2.
    y, done = functional.layer_norm(np.array([[1.0, 3.0]]), np.array([2.0, 10.0]), np.array([0.5, 0.25]), eps=3.0)
    np.testing.assert_allclose(y, [[-0.5, 5.25]], rtol=1e-15)
    # u = (-1/2, 1/2), g = dy w = (2, 0), mean g = 1, mean g u = -1/2: dx = (g - 1 + u / 2) / 2.
    dx, dw, db = functional.group_norm_backward(np.array([[1.0, 0.0]]), done)
    np.testing.assert_allclose(dx, [[0.375, -0.375]], rtol=1e-15)
    np.testing.assert_allclose(dw, [-0.5, 0], rtol=1e-15)
    np.testing.assert_allclose(db, [1, 0], rtol=1e-15)


def test_arguments_that_do_not_fit():
    x, one = np.zeros((2, 4, 5), np.float32), np.ones(4)
    with pytest.raises(ShapeError, match=r"groups 3 must divide the channels of x \(N, C, \.\.\.\); x is \(2, 4, 5\)"):
        functional.group_norm(x, one, one, groups=3)
    with pytest.raises(ShapeError, match="group_norm: groups 0 must divide"):
        functional.group_norm(x, one, one, groups=0)
    with pytest.raises(ShapeError, match=r"group_norm: bias must have shape \(4,\); got \(3,\)"):
        functional.group_norm(x, one, one[:3], groups=2)
    with pytest.raises(ShapeError, match=r"layer_norm: weight must have shape \(4, 5\); got \(4,\)"):
        functional.layer_norm(x, one, one)
    with pytest.raises(ArrayTypeError, match="layer_norm: bias must hold real numbers"):
        functional.layer_norm(x, np.ones((4, 5)), [["a"] * 5] * 4)
    _, done = functional.group_norm(x, one, one, groups=2)
    with pytest.raises(ShapeError, match="group_norm: dy must have the output's shape"):
        functional.group_norm_backward(x[:1], done)


def test_an_empty_batch():
    x = np.zeros((0, 4, 5), np.float32)
    y, done = functional.group_norm(x, np.ones(4), np.zeros(4), groups=2)
    dx, dw, db = functional.group_norm_backward(y, done)
    assert (y.shape, dx.shape) == (x.shape, x.shape)
    np.testing.assert_array_equal([dw, db], np.zeros((2, 4)))
    _, done = functional.layer_norm(x, np.ones((4, 5)), np.zeros((4, 5)))
    np.testing.assert_array_equal(functional.group_norm_backward(x, done)[1], np.zeros((4, 5)))
