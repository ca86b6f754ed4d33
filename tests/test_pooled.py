"""A convolution that gives the maximum of each 2 x 2 of its outputs in inference: where, and that it is what a
pooling behind it gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import convlayers as cl
from convlayers import functional, kernels
from convlayers.errors import ConfigError
from convlayers.kernels import memory
from convlayers.shapes import window
from convlayers.testing import assert_close
from convlayers.testing.machine import on_every_machine, threads_at_every_size


def pooled(model):
    """Names of the steps that take a pooling over."""
    return [task.step.name for task in model.passes.tasks_of_inference if task.pooled]


def halved(y):
    return functional.max_pool2d(y, window(y.shape[2:], 2, stride=2), with_index=False)[0]


def test_what_a_convolution_takes_over():
    x = cl.Input((3, 9, 8))
    conv = cl.Conv2d(4, 3, padding=1)(x, name="conv")
    rectified = cl.ReLU()(conv)
    norm = cl.ReLU()(cl.BatchNorm2d()(conv))
    for behind in (conv, rectified, norm, cl.BatchNorm2d()(conv)):
        for pool in (cl.MaxPool2d(2), cl.MaxPool2d((2, 2), stride=2, padding="valid")):
            model = cl.Model(x, cl.Flatten()(pool(behind)))
            assert pooled(model) == ["conv"]
            assert len(model.passes.tasks_of_inference) == 2
            assert not any(task.pooled for task in model.passes.tasks), "whose gradient needs what each window chose"


def test_poolings_that_stay():
    x = cl.Input((3, 9, 8))
    conv = cl.Conv2d(4, 3, padding=1)(x)
    stay = [
        cl.MaxPool2d(2, stride=1),
        cl.MaxPool2d(3, stride=2),
        cl.MaxPool2d(2, padding=1),
        cl.MaxPool2d(2, ceil_mode=True),  # 9 rows: a last window hangs over
        cl.MaxPool2d((2, 1)),
        cl.MaxPool2d(2, dilation=2),
        cl.MinPool2d(2),
        cl.AvgPool2d(2),
    ]
    for pool in stay:
        assert pooled(cl.Model(x, pool(conv))) == [], repr(pool)
    assert pooled(cl.Model(x, cl.MaxPool2d(2)(cl.Tanh()(conv)))) == []
    assert pooled(cl.Model(x, [conv, cl.MaxPool2d(2)(conv)])) == [], "others see what is pooled"
    assert pooled(cl.Model(x, cl.MaxPool2d(2)(cl.Add()(conv, cl.Conv2d(4, 1)(x))))) == []
    assert pooled(cl.Model(x, cl.MaxPool2d(2)(cl.Dense(8)(conv)))) == []
    thin = cl.Input((3, 1, 1))
    assert pooled(cl.Model(thin, cl.MaxPool2d(2, ceil_mode=True)(cl.Conv2d(4, 1)(thin)))) == []


def test_a_subclass_with_passes_of_its_own_is_told_nothing():
    class Own(cl.Conv2d):
        absorbs_max_pool = False

    x = cl.Input((3, 8, 8))
    assert pooled(cl.Model(x, cl.MaxPool2d(2)(Own(4, 3)(x)))) == []


# Images beside tiles of 4, 8 and 16 outputs; one tile alone, in a line and above each other; odd rows and columns, which no
# window holds; more images than a block of tiles; blocks of rows; groups; strides; filters for lanes; sums by slices of the
# channels, and large kernels; what no kernel pools by itself: 1 x 1, depthwise, FFT, einsum, larger Winograd.
CASES = [
    ((64, 1, 8, 8), 16, 3, {"padding": 1}),
    ((70, 16, 4, 4), 33, 3, {"padding": 1}),
    ((3, 5, 16, 4), 7, 3, {"padding": 1}),
    ((3, 5, 4, 16), 7, 3, {"padding": 1}),
    ((2, 3, 9, 7), 5, 3, {"padding": 1}),
    ((2, 3, 9, 7), 5, 3, {}),
    ((1, 4, 37, 41), 15, 3, {"padding": 1}),
    ((1, 2, 2, 500), 3, 3, {"padding": 1}),
    ((2, 8, 15, 18), 6, 5, {"padding": 2}),
    ((1, 3, 150, 21), 4, 5, {}),
    ((3, 6, 14, 14), 16, 5, {}),
    ((2, 6, 10, 10), 9, 3, {"groups": 3, "padding": 1}),
    ((2, 3, 13, 13), 20, 3, {"stride": 2, "padding": 1}),
    ((1, 3, 33, 35), 8, 7, {"stride": 2, "padding": 3}),
    ((2, 5, 20, 17), 8, 5, {"stride": 2, "padding": 2}),
    ((1, 130, 12, 12), 66, 3, {"padding": 1}),
    ((2, 3, 9, 9), 4, 3, {"dilation": 2}),
    ((2, 9, 6, 6), 17, 1, {}),
    ((2, 8, 9, 9), 8, 3, {"groups": 8, "padding": 1}),
    ((2, 4, 11, 12), 5, 7, {"padding": 3}),
    ((1, 3, 3, 3), 2, 2, {}),
]


def able(shape, filters, kernel, how):
    """The algorithms that can do a convolution."""
    found = []
    for algorithm in ("direct", "winograd", "fft", "einsum"):
        layer = cl.Conv2d(filters, kernel, algorithm=algorithm, **how)
        layer.build(shape[1:], np.random.default_rng(0))
        try:
            layer.forward(np.zeros(shape, np.float32), training=False)
        except ConfigError:
            continue
        found.append(algorithm)
    return found


def agree(y, expected, algorithm, layer, what):
    """To the bit, or to roundings with Winograd's algorithm: which product and sum become one operation is the compiler's
    choice, and another one in the two passes."""
    if algorithm in ("direct", "fft", "einsum"):
        np.testing.assert_array_equal(y, expected, err_msg=what)
        return
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(expected), err_msg=what)
    assert_close(np.nan_to_num(y), np.nan_to_num(expected), layer.params["weight"][0].size, what)


@pytest.mark.parametrize(("shape", "filters", "kernel", "how"), CASES)
@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_a_pooling_behind_it_gives(shape, filters, kernel, how, isa, dtype):
    rng = np.random.default_rng(3)
    x, affine = rng.standard_normal(shape).astype(dtype), rng.uniform(-2, 2, (2, filters)).astype(dtype)
    x[-1, 0, 0, 0], x[0, 0, -1, -1] = np.nan, np.inf
    for algorithm in able(shape, filters, kernel, how):
        layer = cl.Conv2d(filters, kernel, algorithm=algorithm, **how)
        layer.build(shape[1:], rng)
        layer.params = {key: array.astype(dtype) for key, array in layer.params.items()}
        with kernels.using(isa=isa), threads_at_every_size(), memory.poisoned(), np.errstate(invalid="ignore"):
            for options in ({}, {"relu": True}, {"affine": affine, "relu": True}, {"affine": affine, "relu": 0.5}):
                expected = halved(layer.forward(x, training=False, **options)[0])
                first = None
                for threads in (1, 2, 5):
                    with kernels.using(threads=threads):
                        y, _ = layer.forward(x, training=False, pooled=True, **options)
                    first = y if first is None else first
                    what = f"{algorithm}, {options}, {threads} threads"
                    np.testing.assert_array_equal(y, first, err_msg=what)
                    agree(y, expected, algorithm, layer, what)


@st.composite
def configurations(draw):
    kernel = draw(st.sampled_from([2, 3, 3, 3, 5, 7]))
    padding = draw(st.integers(0, kernel // 2))
    least = kernel - 2 * padding + 1
    side = st.integers(least, 36) | st.sampled_from([n for n in (4, 8, 16, 17, 31, 32, 33, 64, 65) if n >= least])
    channels = draw(st.integers(1, 20) | st.sampled_from([32, 33]))
    return (draw(st.integers(1, 20)), channels, draw(side), draw(side)), draw(st.integers(1, 34)), kernel, padding


@settings(max_examples=500, deadline=None)
@given(configurations(), st.sampled_from(["auto", "direct", "winograd"]), st.booleans(), st.data())
def test_random_sizes(configuration, algorithm, relu, data):
    shape, filters, kernel, padding = configuration
    algorithm = "direct" if kernel == 2 else algorithm
    isa, dtype = data.draw(st.sampled_from(kernels.available())), data.draw(st.sampled_from(["float32", "float64"]))
    rng = np.random.default_rng(0)
    layer = cl.Conv2d(filters, kernel, padding=padding, algorithm=algorithm)
    layer.build(shape[1:], rng)
    layer.params = {key: array.astype(dtype) for key, array in layer.params.items()}
    x = rng.standard_normal(shape).astype(dtype)
    with kernels.using(isa=isa, threads=data.draw(st.integers(1, 3))), threads_at_every_size(), memory.poisoned():
        y, _ = layer.forward(x, training=False, relu=relu, pooled=True)
        agree(y, halved(layer.forward(x, training=False, relu=relu)[0]), algorithm, layer, f"{isa}, {dtype}")


@pytest.mark.parametrize("name", ["digits_cnn", "mnist_cnn", "vgg_small"])
def test_models_give_what_their_layers_give(name):
    model = getattr(cl.models, name)()
    rng = np.random.default_rng(1)
    for array in model.parameters().values():
        array += rng.uniform(-0.1, 0.1, array.shape).astype(np.float32)
    x = rng.standard_normal((5, *model.input_shape), np.float32)
    assert len(pooled(model)) == {"digits_cnn": 2, "mnist_cnn": 1, "vgg_small": 3}[name]
    *_, (_, expected) = model.trace(x)
    for isa, [y] in on_every_machine(lambda: [model(x)]).items():
        np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4, err_msg=isa)


def test_a_batch_of_none_and_weights_that_change():
    model = cl.Sequential([cl.Conv2d(4, 3, padding=1), cl.ReLU(), cl.MaxPool2d(2)], input_shape=(2, 8, 8))
    assert model(np.zeros((0, 2, 8, 8), np.float32)).shape == (0, 4, 4, 4)
    x, layer = np.random.default_rng(0).standard_normal((3, 2, 8, 8), np.float32), model.steps[0].layer
    before = model(x)
    layer.params["weight"][...] *= -1
    after = model(x)
    assert (before != after).any()
    agree(after, halved(layer.forward(x, training=False, relu=True)[0]), "auto", layer, "after a change")
