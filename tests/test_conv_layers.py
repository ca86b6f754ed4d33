"""What convolutions promise beyond the conformance suite: shapes, errors, counts, and what they take over."""

import numpy as np
import pytest

import convlayers as cl
from convlayers.errors import ArrayTypeError, ConfigError, ShapeError
from convlayers.functional.plan import _cached
from convlayers.randomness import generator
from convlayers.testing import assert_close

T = cl.ConvTranspose2d


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cl.Conv1d(8, (3, 3)), ConfigError, r"kernel_size is an int or 1 ints, one per axis; got \(3, 3\)"),
        (lambda: cl.Conv3d(8, (3, 3)), ConfigError, "kernel_size is an int or 3 ints, one per axis"),
        (lambda: cl.Conv3d(8, 3, padding=((1, 1), (1, 1))), ConfigError, "padding needs 3 pairs, one per axis"),
        (lambda: cl.Conv1d(8, 3, padding="SAME"), ConfigError, 'padding is "same", "valid", an int'),
        (lambda: cl.Conv1d(0, 3), ConfigError, "out_channels must be at least 1; got 0"),
        (lambda: cl.Conv3d(8, 3, stride=0), ConfigError, "stride must be at least 1; got 0"),
        (lambda: cl.Conv3d(8, 3, bias=1), ArrayTypeError, "bias is True or False; got 1"),
        (lambda: cl.Conv1d(8, 3, algorithm="gemm"), ConfigError, "algorithm must be one of auto, direct"),
        (lambda: T(0, 3), ConfigError, "out_channels must be at least 1; got 0"),
        (lambda: T(8, 0), ConfigError, "kernel_size must be at least 1; got 0"),
        (lambda: T(8, 3, stride=1.5), ArrayTypeError, "stride is an int or 2 ints, one per axis; got 1.5"),
        (lambda: T(8, 3, padding=-1), ConfigError, "padding must be at least 0; got -1"),
        (lambda: T(8, 3, output_padding=1), ConfigError, "output_padding 1 must be less than the stride 1 or the dilation 1"),
        (lambda: T(8, 3, output_padding="1"), ArrayTypeError, "output_padding is an int or 2 ints"),
        (lambda: T(8, 3, stride=2, padding="same", output_padding=1), ConfigError, 'output_padding is 0 where padding="same"'),
        (lambda: T(8, 3, groups=0), ConfigError, "groups must be at least 1; got 0"),
        (lambda: T(8, 3, bias=None), ArrayTypeError, "bias is True or False; got None"),
        (lambda: T(8, 3, algorithm=None), ConfigError, "algorithm must be one of auto, direct"),
    ],
)
def test_arguments_out_of_range(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (cl.Conv1d(8, 3), (4, 5, 5), r"takes signals \(C, L\); got a sample of shape \(4, 5, 5\)"),
        (cl.Conv3d(8, 3), (4, 5, 5), r"takes volumes \(C, D, H, W\); got a sample of shape \(4, 5, 5\)"),
        (cl.Conv1d(8, 5), (1, 3), "kernel 5 does not fit the 3 input; pad it or use a smaller kernel"),
        (cl.Conv3d(8, 3), (1, 2, 3, 3), "kernel 3x3x3 does not fit the 2x3x3 input"),
        (cl.Conv1d(8, 1, groups=2), (3, 5), "groups 2 must divide the 3 input channels and the 8 output channels"),
        (T(8, 3), (5, 5), r"takes images \(C, H, W\); got a sample of shape \(5, 5\)"),
        (T(9, 3, groups=2), (4, 5, 5), "groups 2 must divide the 4 input channels and the 9 output channels"),
        (
            T(8, 3, padding=2),
            (1, 2, 3),
            "padding 2 leaves nothing of the output: 2x3 pixels, stride 1x1 and kernel 3x3 give 0x1",
        ),
    ],
)
def test_inputs_that_do_not_fit(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        layer.build(shape, generator(0, "test"))


@pytest.mark.parametrize(
    ("layer", "shape", "output", "weight", "multiply_adds"),
    [
        (cl.Conv1d(8, 3, stride=2, padding="same"), (4, 9), (8, 5), (8, 4, 3), 8 * 4 * 3 * 5),
        (cl.Conv3d(6, (1, 2, 3), groups=2), (4, 3, 5, 7), (6, 3, 4, 5), (6, 2, 1, 2, 3), 6 * 2 * 6 * 60),
        (T(8, 4, stride=2, padding=1), (6, 5, 7), (8, 10, 14), (6, 8, 4, 4), 6 * 8 * 16 * 35),
        (T(8, 3, stride=2, padding="same", groups=2), (6, 5, 7), (8, 10, 14), (6, 4, 3, 3), 6 * 4 * 9 * 35),
        (T(8, 3, stride=2, padding=1, output_padding=(1, 0)), (6, 5, 7), (8, 10, 13), (6, 8, 3, 3), 6 * 8 * 9 * 35),
    ],
)
def test_shapes_and_counts(layer, shape, output, weight, multiply_adds):
    assert layer.build(shape, generator(0, "test")) == output
    assert layer.params["weight"].shape == weight
    assert layer.params["bias"].shape == output[:1]
    assert layer.multiply_adds(shape, output) == multiply_adds


def test_a_transposed_convolution_undoes_the_shape_of_a_convolution():
    """`output_padding` says which of the images is meant that the convolution would give one shape."""
    for height in (15, 16):
        x = cl.Input((2, height, 9))
        small = cl.Conv2d(3, 3, stride=2, padding=1)(x)
        assert T(2, 3, stride=2, padding=1, output_padding=(height - 15, 0))(small).shape == (2, height, 9)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(T(4, 4, stride=2, padding=1), (3, 5, 6)), (T(4, 3, stride=2, padding="same", groups=2, bias=False), (4, 5, 6))],
)
def test_a_transposed_convolution_takes_over_normalization_and_relu(layer, shape):
    x = cl.Input(shape)
    model = cl.Model(x, cl.ReLU()(cl.BatchNorm2d()(layer(x))), seed=0)
    assert len(model.passes.tasks_of_inference) == 1
    images = np.random.default_rng(0).standard_normal((5, *shape), np.float32)
    for _ in range(3):
        model.forward(images)
    assert_close(model(images), model.forward(images, training=False)[0], 2 * 16 * 4, "taken over, and apart")


def test_an_autoencoder_of_sequences_and_of_volumes_trains():
    """Gradients reach every parameter through layers of both ranks, and a step along them lowers the loss."""
    rng = np.random.default_rng(0)
    for conv, shape in ((cl.Conv1d, (2, 12)), (cl.Conv3d, (2, 4, 6, 5))):
        layers = [
            conv(4, 3, padding="same", init="kaiming_normal"),
            cl.ReLU(),
            conv(2, 3, padding="same", init="glorot_normal"),
        ]
        model = cl.Sequential(layers, input_shape=shape, seed=0)
        x = rng.standard_normal((8, *shape), np.float32)
        losses = []
        for _ in range(2):
            model.zero_gradients()
            y, tape = model.forward(x)
            losses.append(float(((y - x) ** 2).sum()))
            model.backward(2 * (y - x), tape)
            for name, gradient in model.gradients().items():
                assert gradient.any(), name
                model.parameters()[name][...] -= 1e-4 * gradient
        assert losses[1] < losses[0]


def test_options_given_as_lists_are_planned_once():
    """Lists, as JSON has them, cannot be looked up; a layer keeps tuples, or each step would plan anew."""
    model = cl.Sequential([cl.Conv2d(4, [3, 3], stride=[2, 1], padding=[[1, 0], [1, 1]])], input_shape=(3, 9, 8))
    x, (_, layer) = np.ones((2, 3, 9, 8), np.float32), next(model.layers())
    layer.forward(x, training=False)
    before = _cached.cache_info()
    layer.forward(x, training=False)
    after = _cached.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)
