"""What each layer promises beyond the conformance suite: its defaults, its errors, its values."""

import math

import numpy as np
import pytest

import convlayers as cl
from convlayers.errors import ArrayTypeError, ConfigError, ConvlayersError, ExportError, ShapeError
from convlayers.layer import Node, has_to_onnx
from convlayers.randomness import generator, training_step


def built(layer, shape, seed=0):
    return layer, layer.build(shape, generator(seed, "test"))


def test_conv_weights_are_drawn_within_kaimings_bound():
    layer, _ = built(cl.Conv2d(64, 5, groups=2), (6, 9, 9))
    weight, bias = layer.params["weight"], layer.params["bias"]
    assert weight.shape == (64, 3, 5, 5)
    assert bias.shape == (64,)
    bound = 1 / math.sqrt(3 * 25)
    assert 0.98 * bound < np.abs(weight).max() <= bound
    assert np.abs(bias).max() <= bound
    assert abs(weight.mean()) < 0.05 * bound


def test_dense_weights_are_drawn_within_kaimings_bound():
    layer, output = built(cl.Dense(50), (100,))
    assert output == (50,)
    assert 0.098 < np.abs(layer.params["weight"]).max() <= 0.1
    assert "bias" not in built(cl.Dense(5, bias=False), (4,))[0].params


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cl.Conv2d(0, 3), ConfigError, "out_channels must be at least 1; got 0"),
        (lambda: cl.Conv2d(2.0, 3), ArrayTypeError, r"out_channels is an int; got 2\.0"),
        (lambda: cl.Conv2d(8, 0), ConfigError, "kernel_size must be at least 1; got 0"),
        (lambda: cl.Conv2d(8, (3, 3, 3)), ConfigError, "kernel_size is an int or 2 ints"),
        (lambda: cl.Conv2d(8, 3, stride=0), ConfigError, "stride must be at least 1; got 0"),
        (lambda: cl.Conv2d(8, 3, padding=-1), ConfigError, "padding must be at least 0; got -1"),
        (lambda: cl.Conv2d(8, 3, padding="full"), ConfigError, 'padding is "same", "valid"'),
        (lambda: cl.Conv2d(8, 3, dilation=0), ConfigError, "dilation must be at least 1; got 0"),
        (lambda: cl.Conv2d(8, 3, groups=0), ConfigError, "groups must be at least 1; got 0"),
        (lambda: cl.Conv2d(8, 3, algorithm="quick"), ConfigError, "algorithm must be one of auto"),
        (lambda: cl.MaxPool2d(-2), ConfigError, "kernel_size must be at least 1; got -2"),
        (lambda: cl.MaxPool2d(2, padding=(1, -1)), ConfigError, "padding must be at least 0"),
        (lambda: cl.AvgPool2d("2"), ArrayTypeError, "kernel_size is an int"),
        (lambda: cl.Conv2d(8, 3, bias=None), ArrayTypeError, "bias is True or False; got None"),
        (lambda: cl.Dense(8, bias=0), ArrayTypeError, "bias is True or False; got 0"),
        (lambda: cl.MaxPool2d(2, ceil_mode="no"), ArrayTypeError, "ceil_mode is True or False; got 'no'"),
        (lambda: cl.AvgPool2d(2, ceil_mode=1), ArrayTypeError, "ceil_mode is True or False; got 1"),
        (lambda: cl.AvgPool2d(2, count_include_pad=None), ArrayTypeError, "count_include_pad is True or False; got None"),
        (lambda: cl.Dense(-3), ConfigError, "out_features must be at least 1; got -3"),
        (lambda: cl.Dropout(1.0), ConfigError, "p must be at least 0 and less than 1; got 1.0"),
        (lambda: cl.Dropout(math.nan), ConfigError, "p must be at least 0 and less than 1"),
        (lambda: cl.Dropout("0.5"), ConfigError, "p must be at least 0 and less than 1"),
        (lambda: cl.Softmax(0), ConfigError, "axis is an int other than 0"),
        (lambda: cl.Softmax(1.0), ConfigError, "axis is an int other than 0"),
    ],
)
def test_arguments_out_of_range(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (cl.Conv2d(8, 3), (5, 5), r"takes images \(C, H, W\); got a sample of shape \(5, 5\)"),
        (cl.Conv2d(8, 5), (1, 3, 3), "kernel 5x5 does not fit the 3x3 input; pad it or use a smaller kernel"),
        (cl.Conv2d(8, 3, groups=2), (3, 5, 5), "groups 2 must divide the 3 input channels and the 8 output channels"),
        (cl.Conv2d(9, 3, groups=2), (4, 5, 5), "groups 2 must divide the 4 input channels and the 9 output channels"),
        (cl.MaxPool2d(4), (1, 3, 3), "kernel 4x4 does not fit the 3x3 input"),
        (cl.MaxPool2d(2, padding=2), (1, 3, 3), "holds padding alone"),
        (cl.AvgPool2d(2), (7,), "takes images"),
        (cl.Dense(3), (), r"takes vectors \(features,\), or rows of them; got a sample of shape \(\)"),
        (cl.Softmax(2), (7,), r"axis 2 is outside a batch of samples of shape \(7,\)"),
        (cl.Add(), [(3, 4, 5)], "takes two inputs or more; got 1"),
        (cl.Add(), [(3, 4, 5), (3, 4, 4)], r"of one size or of size 1; got \(3, 4, 5\), \(3, 4, 4\)"),
    ],
)
def test_inputs_that_do_not_fit(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        layer.build(shape, generator(0, "test"))


def test_arguments_from_numpy_are_kept_as_json_values():
    layers = [
        cl.Conv2d(np.int64(4), np.int64(3), stride=np.int32(2), padding=np.int64(1)),
        cl.MaxPool2d(np.int64(2)),
        cl.AvgPool2d((np.int64(2), np.int64(2))),
    ]
    model = cl.Sequential(layers, input_shape=(1, 16, 16))
    again = cl.Model.from_config(model.to_config())
    assert again.output_shape == model.output_shape
    import json

    json.dumps(model.to_config())


def test_sigmoid_and_softmax_do_not_overflow():
    x = np.array([[-1e4, -100, 0, 100, 1e4]], np.float32)
    sigmoid, _ = cl.Sigmoid().forward(x, training=False)
    np.testing.assert_allclose(sigmoid, [[0, 0, 0.5, 1, 1]], atol=1e-7)
    softmax, _ = cl.Softmax().forward(x, training=False)
    np.testing.assert_array_equal(softmax, [[0, 0, 0, 0, 1]])


def test_softmax_sums_to_one_along_its_axis():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    for axis in (1, 2, 3, -1, -2):
        y, _ = cl.Softmax(axis).forward(x, training=False)
        np.testing.assert_allclose(y.sum(axis=axis), 1, rtol=1e-12)


def test_dropout_keeps_the_mean_and_scales():
    x = np.ones((100, 1000), np.float32)
    layer = cl.Dropout(0.3)
    with training_step(5, 1):
        y, _ = layer.forward(x, training=True)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
    # 100,000 draws: three standard deviations of the share of zeros.
    assert abs((y == 0).mean() - 0.3) < 3 * math.sqrt(0.3 * 0.7 / y.size)
    np.testing.assert_array_equal(layer.forward(x, training=False)[0], x)


def test_dropout_draws_by_seed_step_and_place():
    x = np.ones((4, 50), np.float32)
    model = cl.Sequential([cl.Dropout(), cl.Dropout()], input_shape=(50,))
    outputs = [list(model.trace(x, training=True, seed=seed, step=step)) for seed, step in ((1, 1), (1, 1), (1, 2), (2, 1))]
    first, again, other_step, other_seed = ([y for _, y in steps] for steps in outputs)
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other_step[0]).any()
    assert (first[0] != other_seed[0]).any()
    # The second layer's mask is not the first one's: some of what the first kept is dropped.
    assert ((first[0] > 0) & (first[1] == 0)).any()


def test_flatten_goes_in_c_order():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    y, cache = cl.Flatten().forward(x, training=False)
    np.testing.assert_array_equal(y, x.reshape(2, 12))
    np.testing.assert_array_equal(cl.Flatten().backward(y, cache), x)


def test_multiply_adds():
    conv, output = built(cl.Conv2d(8, 3, padding=1, groups=2), (4, 10, 12))
    assert conv.multiply_adds((4, 10, 12), output) == 8 * 2 * 9 * 120
    dense, output = built(cl.Dense(5), (7,))
    assert dense.multiply_adds((7,), output) == 35
    assert cl.ReLU().multiply_adds((7,), (7,)) == 0


def test_repr_is_the_call_that_makes_the_layer():
    assert repr(cl.ReLU()) == "ReLU()"
    layer = cl.MaxPool2d([2, 3], stride=2)
    assert repr(layer) == "MaxPool2d(kernel_size=[2, 3], stride=2, padding=0, dilation=1, ceil_mode=False)"
    assert eval(repr(layer), vars(cl)).config() == layer.config()


def test_a_layer_of_ones_own_says_what_it_lacks():
    class Bare(cl.Layer):
        pass

    layer = Bare()
    assert layer.build((3, 4), generator(0, "test")) == (3, 4)
    for call in (lambda: layer.forward(np.ones(3), training=False), lambda: layer.backward(np.ones(3), None)):
        with pytest.raises(NotImplementedError, match="Bare has no"):
            call()
    assert not has_to_onnx(layer)
    assert has_to_onnx(cl.ReLU())
    with pytest.raises(ExportError, match="Bare cannot be exported: it has no to_onnx"):
        layer.to_onnx(None, "x")


def test_every_error_is_also_the_builtin_that_fits():
    fitting = (ValueError, TypeError, KeyError, OSError, ImportError, ArithmeticError)
    pending = list(ConvlayersError.__subclasses__())
    while pending:
        error = pending.pop()
        pending += error.__subclasses__()
        assert issubclass(error, fitting), error


def test_nodes_name_the_place_of_an_error():
    x = cl.Input((1, 3, 3))
    assert isinstance(cl.Conv2d(2, 3)(x), Node)
    with pytest.raises(ShapeError, match=r'^Conv2d "stem": kernel 5x5 does not fit the 3x3 input'):
        cl.Conv2d(2, 5)(x, name="stem")
    with pytest.raises(ShapeError, match="Conv2d: takes one input; got 2"):
        cl.Conv2d(2, 3)(x, x)
    with pytest.raises(ShapeError, match="ReLU: call a layer on the nodes it follows"):
        cl.ReLU()()
