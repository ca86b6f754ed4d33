"""Activation layers: known values, the errors that they name, and the operators that they become."""

import math

import numpy as np
import onnx
import pytest
from exports import around, run

import convlayers as cl
from convlayers.errors import ArrayTypeError, ConfigError, ShapeError
from convlayers.randomness import generator


@pytest.mark.parametrize(
    ("layer", "x", "y"),
    [
        (cl.LeakyReLU(), -2, -0.02),
        (cl.Clip(0, 6), 7, 6),
        (cl.Clip(min=-1), -7, -1),
        (cl.HardSigmoid(), 1.5, 0.75),
        (cl.HardSwish(), 1.5, 1.125),
        (cl.Sigmoid(), math.log(3), 0.75),
        (cl.Tanh(), math.log(2), 0.6),
        (cl.ELU(2), -math.log(4), -1.5),
        (cl.SELU(), 1, 1.0507009873554804934),
        (cl.Softplus(), 0, math.log(2)),
        (cl.Softplus(2), 0, math.log(2) / 2),
        (cl.Softplus(1, 0.5), 0.75, 0.75),
        (cl.SiLU(), math.log(3), 0.75 * math.log(3)),
        # With e^x = 2, tanh(log 3) = 8 / 10.
        (cl.Mish(), math.log(2), 0.8 * math.log(2)),
        (cl.GELU(), 1, 0.84134474606854294859),
        (cl.GELU("tanh"), 1, 0.84119199060827676),
    ],
)
def test_known_values(layer, x, y):
    np.testing.assert_allclose(layer.forward(np.array([[x]], np.float64), training=False)[0], [[y]], rtol=1e-15)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cl.LeakyReLU(math.nan), ConfigError, "alpha must be a finite number; got nan"),
        (lambda: cl.LeakyReLU("0.1"), ConfigError, r"alpha must be a finite number; got '0\.1'"),
        (lambda: cl.ELU(math.inf), ConfigError, "alpha must be a finite number; got inf"),
        (lambda: cl.ELU(None), ConfigError, "alpha must be a finite number; got None"),
        (lambda: cl.PReLU(init=True), ConfigError, "init must be a finite number; got True"),
        (lambda: cl.PReLU(per_channel=1), ArrayTypeError, "per_channel is True or False; got 1"),
        (lambda: cl.Clip(6, 0), ConfigError, "min must be less than max; got 6 and 0"),
        (lambda: cl.Clip(0, 0), ConfigError, "min must be less than max; got 0 and 0"),
        (lambda: cl.Clip(math.nan, 0), ConfigError, "min must be a finite number; got nan"),
        (lambda: cl.Clip(max=math.inf), ConfigError, "max must be a finite number; got inf"),
        (lambda: cl.Softplus(0), ConfigError, "beta must be greater than 0 and finite; got 0"),
        (lambda: cl.Softplus(1, math.inf), ConfigError, "threshold must be a finite number; got inf"),
        (lambda: cl.GELU("erf"), ConfigError, "approximate is one of none, tanh; got 'erf'"),
        (lambda: cl.GELU(True), ConfigError, "approximate is one of none, tanh; got True"),
        (lambda: cl.LogSoftmax(0), ConfigError, "axis is an int other than 0, the batch; got 0"),
        (lambda: cl.Softmax(True), ConfigError, "axis is an int other than 0, the batch; got True"),
    ],
)
def test_arguments_out_of_range(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_samples_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"axis -3 is outside a batch of samples of shape \(3, 4\)"):
        cl.LogSoftmax(-3).build((3, 4), generator(0, "test"))
    with pytest.raises(ShapeError, match=r"takes samples with a channel axis \(C, \.\.\.\); got a sample of shape \(\)"):
        cl.PReLU(per_channel=True).build((), generator(0, "test"))


def test_prelu_starts_at_init():
    for layer, weight in ((cl.PReLU(), [0.25]), (cl.PReLU(per_channel=True, init=-1), [-1, -1, -1])):
        layer.build((3, 2, 2), generator(0, "test"))
        np.testing.assert_array_equal(layer.params["weight"], np.array(weight, np.float32))


def operators(layer, opset, folder, shape=(3, 4, 5)):
    cl.export_onnx(around(layer, shape), folder / "m.onnx", opset)
    return [node.op_type for node in onnx.load(folder / "m.onnx").graph.node]


# The opset that has the operator, the layer, its operators from there on and its last one below.
@pytest.mark.parametrize(
    ("opset", "layer", "at", "below"),
    [
        (20, cl.GELU(), ["Gelu"], "Mul"),
        (20, cl.GELU("tanh"), ["Gelu"], "Mul"),
        (18, cl.Mish(), ["Mish"], "Mul"),
        (14, cl.HardSwish(), ["HardSwish"], "Mul"),
    ],
)
def test_operators_as_soon_as_there_are_any(opset, layer, at, below, tmp_path):
    assert operators(layer, opset, tmp_path) == at
    assert operators(type(layer)(**layer.config()), opset - 1, tmp_path)[-1] == below


def test_a_softplus_with_a_low_threshold_is_exported_with_it(tmp_path):
    assert operators(cl.Softplus(), 17, tmp_path) == ["Softplus"]
    layer = cl.Softplus(2, 1)
    assert operators(layer, 17, tmp_path) == ["Mul", "Softplus", "Div", "Greater", "Where"]
    x = np.linspace(-3, 3, 60, dtype=np.float32).reshape(1, 3, 4, 5)
    (y,) = run(tmp_path / "m.onnx", x)
    np.testing.assert_allclose(y, layer.forward(x, training=False)[0], rtol=1e-6)
    np.testing.assert_array_equal(y[x > 0.5], x[x > 0.5])


def test_prelus_weight_keeps_its_name(tmp_path):
    for layer in (cl.PReLU(), cl.PReLU(per_channel=True)):
        cl.export_onnx(around(layer, (3, 4, 5)), tmp_path / "m.onnx")
        assert "prelu.weight" in [value.name for value in onnx.load(tmp_path / "m.onnx").graph.initializer]
