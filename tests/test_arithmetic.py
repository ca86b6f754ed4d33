"""Arithmetic of several inputs, elementary functions and values of their own: by hand, at the edges, and what is refused."""

import math

import numpy as np
import onnx
import pytest
from exports import around, run

import convlayers as cl
from convlayers import functional
from convlayers.errors import ArrayTypeError, ConfigError, FileFormatError, ShapeError
from convlayers.randomness import NoDraws, generator
from convlayers.testing.machine import same_bits

INF, NAN = math.inf, math.nan


def passes(layer, x, dy=None):
    """The output, and the input gradients for `dy`, by default ones."""
    y, cache = layer.forward(x, training=True)
    return y, layer.backward(np.ones_like(y) if dy is None else dy, cache)


# Joins


def test_equal_shapes_are_added_by_the_kernel():
    a, b, c = (np.random.default_rng(n).standard_normal((2, 3, 4)).astype(np.float32) for n in range(3))
    y, gradients = passes(cl.Add(), [a, b, c], a)
    assert same_bits(y, functional.add([a, b, c]))
    assert all(dx is a for dx in gradients)


def test_fewer_axes_stand_behind_the_batch():
    a, b = np.arange(24.0).reshape(2, 3, 4), np.array([[1.0, 2, 3, 4], [10, 20, 30, 40]])
    y, (da, db) = passes(cl.Subtract(), [a, b])
    np.testing.assert_array_equal(y, a - b[:, None])
    np.testing.assert_array_equal(da, np.ones((2, 3, 4)))
    np.testing.assert_array_equal(db, np.full((2, 4), -3))


def test_the_first_of_equal_ones_gets_the_gradient():
    a, b, c = np.array([[1.0, 5, 2]]), np.array([[1.0, 5, 7]]), np.array([[1.0, 6, 7]])
    y, gradients = passes(cl.Maximum(), [a, b, c])
    np.testing.assert_array_equal(y, [[1, 6, 7]])
    np.testing.assert_array_equal(gradients, [[[1, 0, 0]], [[0, 0, 1]], [[0, 1, 0]]])
    y, gradients = passes(cl.Minimum(), [a, b, c])
    np.testing.assert_array_equal(y, [[1, 5, 2]])
    np.testing.assert_array_equal(gradients, [[[1, 1, 1]], [[0, 0, 0]], [[0, 0, 0]]])


def test_nan_wins_and_gets_no_gradient():
    y, gradients = passes(cl.Maximum(), [np.array([[NAN, 1.0]]), np.array([[2.0, 0.0]])])
    np.testing.assert_array_equal(y, [[NAN, 1]])
    np.testing.assert_array_equal(gradients, [[[0, 1]], [[0, 0]]])


def test_powers_at_their_edges():
    """0^0 = 1 with slopes 0, as in PyTorch; a power of 0 has no logarithm to multiply with."""
    y, (da, db) = passes(cl.Power(), [np.array([[0.0, 0, 2, -2]]), np.array([[0.0, 2, 0, 3]])])
    np.testing.assert_array_equal(y, [[1, 0, 1, -8]])
    np.testing.assert_array_equal(da, [[0, 0, 0, 12]])
    np.testing.assert_array_equal(db, [[-INF, 0, math.log(2), NAN]])


def test_a_quotient_by_zero_is_infinite():
    y, (da, _) = passes(cl.Divide(), [np.array([[1.0, 0.0]]), np.zeros((1, 1))])
    np.testing.assert_array_equal(y, [[INF, NAN]])
    np.testing.assert_array_equal(da, [[INF, INF]])


@pytest.mark.parametrize(
    ("layer", "shapes", "message"),
    [
        (cl.Subtract(), [(3,), (3,), (3,)], "takes 2 inputs; got 3"),
        (cl.Divide(), [(3,)], "takes 2 inputs; got 1"),
        (cl.Power(), [(3,), (4,)], r"of one size or of size 1; got \(3,\), \(4,\)"),
        (cl.Maximum(), [(3,)], "takes two inputs or more; got 1"),
        (cl.Add(), [(2, 3), (3, 2, 2)], r"of one size or of size 1; got \(2, 3\), \(3, 2, 2\)"),
    ],
)
def test_inputs_that_do_not_meet(layer, shapes, message):
    with pytest.raises(ShapeError, match=message):
        layer.build(shapes, generator(0, "test"))


def test_arithmetic_is_checked():
    x = np.ones((2, 3))
    with pytest.raises(ConfigError, match=r"arithmetic is one of add, subtract, .*; got 'modulo'"):
        functional.arithmetic("modulo", [x, x])
    with pytest.raises(ShapeError, match=r"divide: dy must have the output's shape \(2, 3\); got \(2, 1\)"):
        functional.arithmetic_backward("divide", x[:, :1], [x, x])
    with pytest.raises(ArrayTypeError, match="add: input 1 must hold real numbers"):
        functional.arithmetic("add", [x, x * 1j])


# Elementary functions


def test_erf_keeps_every_digit():
    """Within 2 roundings of the exact value, from the smallest numbers to the tails."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-6, 6, 40_000), rng.standard_normal(4000) * 10.0 ** rng.uniform(-30, 0, 4000), [1, -1]])
    for dtype in (np.float64, np.float32):
        given = x.astype(dtype)
        exact = np.array([math.erf(v) for v in given.tolist()])
        y = functional.activation("erf", given)
        error = np.abs(y - exact) / (np.finfo(dtype).eps * np.abs(exact))
        assert error.max() <= 2, f"{np.dtype(dtype)}: {error.max():.2f} roundings at {given[error.argmax()]}"


def test_erf_at_its_limits():
    y = functional.activation("erf", np.array([-INF, INF, NAN, 0.0, -0.0, 40.0]))
    np.testing.assert_array_equal(y, [-1, 1, NAN, 0, -0.0, 1])
    assert np.signbit(y).tolist() == [True, False, False, False, True, False]


def test_celu_of_a_negative_alpha_up_to_the_largest_numbers():
    for dtype, x in ((np.float32, [-88.0, -60, -1e-3, -1e-30, 2]), (np.float64, [-709.0, -400, -1e-9, -1e-300, 2])):
        given = np.array(x, dtype)
        y = functional.activation("celu", given, -1.0)
        dx = functional.activation_backward("celu", np.ones_like(given), given, -1.0)
        exact = [v if v > 0 else -math.expm1(-v) for v in given.tolist()]
        np.testing.assert_allclose(y, exact, rtol=8 * np.finfo(dtype).eps)
        np.testing.assert_allclose(dx, [1 if v > 0 else math.exp(-v) for v in given.tolist()], rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("layer", "x", "y", "dx"),
    [
        (cl.Log(), [1, 0, -1], [0, -INF, NAN], [1, INF, -1]),
        (cl.Sqrt(), [4, 0, -1], [2, 0, NAN], [0.25, INF, NAN]),
        (cl.Reciprocal(), [-2, 0], [-0.5, INF], [-0.25, -INF]),
        (cl.Abs(), [-2, 0, 3], [2, 0, 3], [-1, 0, 1]),
        (cl.PowConstant(0), [0, -2], [1, 1], [0, 0]),
        (cl.PowConstant(3), [0, -2], [0, -8], [0, 12]),
        (cl.PowConstant(0.5), [0, -1], [0, NAN], [INF, NAN]),
        (cl.ThresholdedReLU(1), [1, 2, NAN], [0, 2, NAN], [0, 1, 1]),
        (cl.CELU(2), [-INF, 0, INF], [-2, 0, INF], [0, 1, 1]),
        (cl.Softsign(), [-1, 0, 3], [-0.5, 0, 0.75], [0.25, 1, 0.0625]),
    ],
    ids=repr,
)
def test_functions_by_hand(layer, x, y, dx):
    actual, slope = passes(layer, np.array([x], float))
    np.testing.assert_allclose(actual, [y], rtol=1e-15)
    np.testing.assert_allclose(slope, [dx], rtol=1e-15)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cl.AddConstant(INF), ConfigError, "value must be a finite number; got inf"),
        (lambda: cl.MultiplyConstant("2"), ConfigError, "value must be a finite number; got '2'"),
        (lambda: cl.PowConstant(NAN), ConfigError, "exponent must be a finite number; got nan"),
        (lambda: cl.CELU(0), ConfigError, "alpha must be a finite number other than 0; got 0"),
        (lambda: cl.ThresholdedReLU(None), ConfigError, "alpha must be a finite number; got None"),
        (lambda: cl.Parameter([]), ConfigError, r"shape must be a list of sizes of at least 1; got \[\]"),
        (lambda: cl.Parameter([3, 0]), ConfigError, r"shape must be a list of sizes of at least 1; got \[3, 0\]"),
        (lambda: cl.Parameter(3), ConfigError, "shape must be a list of sizes of at least 1; got 3"),
        (lambda: cl.Parameter([3], trainable=1), ArrayTypeError, "trainable is True or False; got 1"),
    ],
)
def test_arguments_out_of_range(make, error, message):
    with pytest.raises(error, match=message):
        make()


# Values of their own


def test_a_parameter_is_trained_beside_its_network():
    x = cl.Input((4,))
    model = cl.Model(x, cl.Add()(x, cl.Parameter([4])(x, name="bias")), seed=0)
    data = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
    trainer = cl.Trainer(model, loss="mse", optimizer=cl.SGD(0.5), seed=0)
    trainer.fit((data, data + np.float32([1, -2, 0, 3])), epochs=12, batch_size=16, progress=False)
    np.testing.assert_allclose(model.parameters()["bias.value"], [1, -2, 0, 3], atol=1e-3)


def test_a_buffer_is_saved_and_not_trained(tmp_path):
    x = cl.Input((3, 2, 2))
    model = cl.Model(x, cl.Subtract()(x, cl.Parameter([3, 1, 1], trainable=False)(x, name="mean")), seed=0)
    assert list(model.parameters()) == []
    model.load_state_dict({"mean.value": np.float32([1, 2, 3]).reshape(3, 1, 1)})
    model.save(tmp_path / "m.safetensors")
    again = cl.load(tmp_path / "m.safetensors")
    images = np.random.default_rng(0).standard_normal((2, 3, 2, 2)).astype(np.float32)
    expected = images - np.float32([1, 2, 3]).reshape(3, 1, 1)
    np.testing.assert_array_equal(again(images), expected)
    cl.export_onnx(again, tmp_path / "m.onnx")
    np.testing.assert_array_equal(run(tmp_path / "m.onnx", images)[0], expected)
    (tensor,) = [t for t in onnx.load(tmp_path / "m.onnx").graph.initializer if t.name == "mean.value"]
    assert list(tensor.dims) == [3, 1, 1]


@pytest.mark.parametrize("trainable", [True, False])
def test_a_file_cannot_ask_for_more_than_it_holds(trainable):
    with pytest.raises(FileFormatError, match=r"asks for weights of shape \(1000000, 1000000\), more than the file holds"):
        cl.Parameter([10**6, 10**6], trainable).build((3,), NoDraws(50))


def test_operators_are_aligned_behind_the_batch(tmp_path):
    """ONNX would meet a batch of 4 with an axis of 4."""
    model = around(cl.Divide(), [(4, 5), (5,)])
    cl.export_onnx(model, tmp_path / "m.onnx")
    assert [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node] == ["Unsqueeze", "Div"]
    x = [np.random.default_rng(n).uniform(1, 2, shape).astype(np.float32) for n, shape in enumerate([(4, 4, 5), (4, 5)])]
    np.testing.assert_allclose(run(tmp_path / "m.onnx", *x)[0], x[0] / x[1][:, None], rtol=1e-6)
