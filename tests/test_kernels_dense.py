"""Matrix product and ReLU: compiled kernels against the reference, for every instruction set and thread count."""

import numpy as np
import pytest
from helpers import DTYPES, assert_kernel, beside, edges, random_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from convlayers import functional, kernels
from convlayers.errors import ShapeError
from convlayers.kernels import reference
from convlayers.testing import assert_close, on_every_machine


def check_linear(rows, features, outputs, dtype, seed=0):
    """`linear` and its gradients: all three orders of operands of the matrix product."""
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((rows, features)).astype(dtype), rng.standard_normal((outputs, features)).astype(dtype)
    b, dy = rng.standard_normal(outputs).astype(dtype), rng.standard_normal((rows, outputs)).astype(dtype)

    def compute():
        return (
            functional.linear(x, w, b),
            functional.linear(x, w),
            functional.linear_backward_input(dy, w),
            *functional.linear_backward_weight(dy, x),
        )

    expected = [
        reference.gemm(x, w.T, b),
        reference.gemm(x, w.T, None),
        reference.gemm(dy, w, None),
        reference.gemm(dy.T, x, None),
        dy.astype(np.float64).sum(axis=0),
    ]
    lengths = [features + 1, features, outputs, rows, rows]
    assert_kernel(compute, expected, lengths, f"x {x.shape}, w {w.shape}, seed {seed}", dtype)


@settings(random_cases, max_examples=80)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 70), st.sampled_from(DTYPES), st.integers(0, 99))
def test_random_products(rows, features, outputs, dtype, seed):
    check_linear(rows, features, outputs, dtype, seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", kernels.available())
def test_sizes_beside_the_edges_of_tiles_and_vectors(isa, dtype):
    vector, tile = edges(isa, dtype)
    for rows in beside(tile):
        for columns in beside(vector):
            check_linear(rows, 3, columns, dtype)
    for depth in (1, 63, 64, 65, 767, 768, 769, 1537):
        check_linear(tile + 1, depth, vector + 1, dtype)
    for rows in (63, 64, 65, 129):
        check_linear(rows, 300, 7, dtype)
    # Panels in groups: two units a thread, with a last group and a last panel that are not full.
    for panels in (4, 9, 40):
        for features in beside(panels * 2 * vector):
            check_linear(tile + 1, features, 5, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "outputs", "features"),
    [(32, 64, 1024), (31, 64, 1024), (32, 63, 1024), (32, 64, 1023), (33, 67, 1151), (65, 70, 2048), (32, 80, 5003)],
)
def test_deep_sums(rows, outputs, features, dtype):
    """At and beside the sizes from which they are a weight gradient; the last is a prime number of features."""
    check_linear(rows, features, outputs, dtype)
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((rows, features)).astype(dtype), rng.standard_normal((outputs, features)).astype(dtype)
    b = rng.standard_normal(outputs).astype(dtype)
    for bias in (b, None):
        y = functional.linear(x, w, bias)
        np.testing.assert_array_equal(functional.linear(x, w, bias, relu=True), functional.relu(y))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_to_sum_or_nothing_to_fill(dtype):
    b = np.arange(3, dtype=dtype)
    np.testing.assert_array_equal(functional.linear(np.zeros((2, 0), dtype), np.zeros((3, 0), dtype), b), [b, b])
    assert functional.linear(np.zeros((0, 4), dtype), np.zeros((3, 4), dtype), b).shape == (0, 3)
    dw, db = functional.linear_backward_weight(np.zeros((0, 3), dtype), np.zeros((0, 4), dtype))
    np.testing.assert_array_equal(dw, np.zeros((3, 4)))
    np.testing.assert_array_equal(db, np.zeros(3))


def test_shapes_that_do_not_fit():
    x = np.zeros((2, 4), np.float32)
    with pytest.raises(ShapeError, match=r"weight \(3, 5\) is for 5 features; x has 4"):
        functional.linear(x, np.zeros((3, 5)))
    with pytest.raises(ShapeError, match=r"b must have shape \(3,\); got \(4,\)"):
        functional.linear(x, np.zeros((3, 4)), np.zeros(4))
    with pytest.raises(ShapeError, match=r"x must have 2 axes \(N, features\); got shape \(4,\)"):
        functional.linear(x[0], np.zeros((3, 4)))
    with pytest.raises(ShapeError, match=r"dy must have the output's shape \(2, 3\); got \(1, 3\)"):
        functional.linear_backward_weight(np.zeros((1, 3)), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 7, 8, 9, 31, 33, 16383, 16384, 16385, 40000])
def test_relu(size, dtype):
    rng = np.random.default_rng(size)
    x, dy = rng.standard_normal(size).astype(dtype), rng.standard_normal(size).astype(dtype)

    def compute():
        y = functional.relu(x)
        return y, functional.relu_backward(dy, y)

    y = reference.relu_forward(x)
    assert_kernel(compute, [y, reference.relu_backward(dy, y)], [1, 1], f"relu of {size}", dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu_of_values_at_the_edge(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([np.nan, -0.0, 0.0, np.inf, -np.inf, tiny, -tiny] * 5, dtype)

    def compute():
        y = functional.relu(x)
        return y, functional.relu_backward(np.ones_like(x), y)

    for isa, (y, dx) in on_every_machine(compute).items():
        np.testing.assert_array_equal(y, np.array([np.nan, 0, 0, np.inf, 0, tiny, 0] * 5, dtype), err_msg=isa)
        # No gradient at 0, and none through NaN: `y > 0` holds for neither.
        np.testing.assert_array_equal(dx, np.array([0, 0, 0, 1, 0, 1, 0] * 5, dtype), err_msg=isa)


def test_against_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is the second judge where it is installed")
    rng = np.random.default_rng(8)
    x, w, b = rng.standard_normal((5, 7)), rng.standard_normal((3, 7)), rng.standard_normal(3)
    expected = torch.nn.functional.linear(*map(torch.from_numpy, (x, w, b))).numpy()
    assert_close(functional.linear(x, w, b), expected, 7, "linear")
