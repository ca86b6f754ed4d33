"""What runs together in a model: found where it is allowed, and the same results as apart."""

import copy

import numpy as np
import pytest

import convlayers as cl
from convlayers import functional, kernels
from convlayers.errors import ShapeError
from convlayers.kernels import memory
from convlayers.model.fusion import plan
from convlayers.testing import assert_close, assert_gradient, on_every_machine
from convlayers.testing.machine import threads_at_every_size


def conv_norm_relu(x, filters=4, **how):
    conv = cl.Conv2d(filters, 3, padding=1, bias=False, **how)(x)
    norm = cl.BatchNorm2d()(conv)
    return conv, norm, cl.ReLU()(norm)


def taken(model, affine=False):
    """Name of each task's step, and what it takes over."""
    tasks = plan(model.steps, model.outputs, affine=affine)
    return [(task.step.name, task.affine is not None, task.relu) for task in tasks]


def batch(n=5, dtype="float32"):
    return np.random.default_rng(0).normal(0.5, 1, (n, 3, 6, 6)).astype(dtype)


def disturbed(model, seed=1):
    """A model that looks trained: scales and shifts of both signs, statistics that are not those of a fresh one."""
    rng = np.random.default_rng(seed)
    for array in model.parameters().values():
        array += rng.uniform(-0.5, 0.5, array.shape).astype(np.float32)
    model.forward(batch())
    return model


def test_batch_normalization_takes_over_its_relu():
    x = cl.Input((3, 6, 6))
    model = cl.Model(x, conv_norm_relu(x)[2])
    assert taken(model) == [("conv2d", False, False), ("batch_norm2d", False, True)]
    assert taken(model, affine=True)[0][:2] == ("conv2d", True)
    assert "batch_norm2d" not in [name for name, *_ in taken(model, affine=True)]


def test_a_sum_takes_over_its_relu():
    x = cl.Input((3, 6, 6))
    left, right = cl.Conv2d(4, 1)(x), cl.Conv2d(4, 1)(x)
    assert taken(cl.Model(x, cl.ReLU()(cl.Add()(left, right))))[-1] == ("add", False, True)


@pytest.mark.parametrize("pool", [cl.MaxPool2d, cl.MinPool2d])
def test_a_maximum_takes_over_the_relu_before_it(pool):
    x = cl.Input((3, 6, 6))
    _, norm, relu = conv_norm_relu(x)
    model = cl.Model(x, cl.Dense(2)(cl.Flatten()(pool(2)(relu))))
    name = {cl.MaxPool2d: "max_pool2d", cl.MinPool2d: "min_pool2d"}[pool]
    assert taken(model)[:3] == [("conv2d", False, False), ("batch_norm2d", False, False), (name, False, True)]
    # In inference there is no gradient to cut off, and the layer before the ReLU has the value at hand.
    assert taken(model, affine=True)[:2] == [("conv2d", True, True), (name, False, False)]
    seen = cl.Model(x, [cl.MaxPool2d(2)(relu), relu])
    assert taken(seen)[1:] == [("batch_norm2d", False, True), ("max_pool2d", False, False)]
    split = cl.Model(x, cl.Add()(cl.MaxPool2d(1)(relu), norm))
    assert taken(split)[1:] == [("batch_norm2d", False, False), ("max_pool2d", False, True), ("add", False, False)]


def test_relus_between_maxima():
    x = cl.Input((3, 6, 6))
    two = cl.MaxPool2d(2)(cl.ReLU()(cl.MaxPool2d(1)(cl.ReLU()(x))))
    assert taken(cl.Model(x, two)) == [("max_pool2d", False, True), ("max_pool2d_1", False, True)]
    once = cl.ReLU()(cl.MaxPool2d(2)(cl.ReLU()(x)))
    assert taken(cl.Model(x, once)) == [("max_pool2d", False, True)]
    plain = cl.MaxPool2d(2)(cl.Tanh()(cl.ReLU()(x)))
    assert taken(cl.Model(x, plain)) == [("relu", False, False), ("tanh", False, False), ("max_pool2d", False, False)]


@pytest.mark.parametrize("isa", kernels.available())
def test_the_same_gradients_with_the_relu_behind_the_maximum(isa):
    """Half of the windows hold nothing positive, some hold zeros and ties; the value before the ReLU is read elsewhere too."""
    rng = np.random.default_rng(5)
    images = np.maximum(np.round(rng.normal(-1, 1.2, (6, 3, 8, 8)), 0), -1).astype(np.float32)
    with kernels.using(isa=isa):
        results = []
        for apart in (False, True):
            x = cl.Input((3, 8, 8))
            conv = cl.Conv2d(3, 1, bias=False, init="orthogonal")(x)
            relu = cl.ReLU()(conv)
            pooled = cl.MaxPool2d(3, stride=2, padding=1)(relu)
            side = cl.MaxPool2d(3, stride=2, padding=1)(conv)
            end = cl.Add()(pooled, side)
            model = cl.Model(x, [end, relu] if apart else end)
            (weight,) = model.parameters().values()
            weight[...] = np.eye(3).reshape(3, 3, 1, 1)
            assert any(task.relu and task.step.name == "max_pool2d" for task in model.passes.tasks) != apart
            y, tape = model.forward(images)
            y = y[0] if apart else y
            dy = np.random.default_rng(6).normal(size=y.shape).astype(np.float32)
            dx = model.backward([dy, np.zeros_like(images)] if apart else dy, tape)
            results.append((y, dx, model.gradients()["conv2d.weight"]))
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_what_others_read_is_computed():
    x = cl.Input((3, 6, 6))
    conv, norm, relu = conv_norm_relu(x)
    apart = [("conv2d", False, False), ("batch_norm2d", False, False), ("relu", False, False)]
    assert taken(cl.Model(x, [norm, relu])) == apart
    assert taken(cl.Model(x, [relu, relu]))[1] == ("batch_norm2d", False, True)
    assert taken(cl.Model(x, [conv, relu]), affine=True)[0] == apart[0]
    both = cl.Model(x, cl.Add()(relu, norm))
    assert taken(both) == [*apart, ("add", False, False)]
    assert taken(cl.Model(x, cl.Add()(norm, norm)))[1:] == [apart[1], ("add", False, False)]
    assert taken(cl.Model(x, cl.Tanh()(norm)))[1:] == [apart[1], ("tanh", False, False)]


def pair():
    """A residual network whose ReLUs are taken over, and the same layers in a network that puts every value out."""
    x = cl.Input((3, 6, 6))
    stem = conv_norm_relu(x)
    shared = cl.BatchNorm2d()
    left = cl.Conv2d(4, 1)(stem[2])
    right = cl.Conv2d(4, 3, padding=1, groups=2)(stem[2])
    one, two = shared(left, name="one"), shared(right, name="two")
    bent = cl.ReLU()(one, name="bent")
    end = cl.Add()(bent, two)
    fused = disturbed(cl.Model(x, end, seed=3))
    return fused, cl.Model(x, [end, *stem, left, right, one, two, bent])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("isa", kernels.available())
def test_the_same_bits_as_apart(isa, training):
    with kernels.using(isa=isa):
        fused, apart = pair()
        assert sum(task.relu for task in fused.passes.tasks) == 2
        assert not any(task.relu for task in apart.passes.tasks)
        state = fused.state_dict()
        results = []
        for model in (fused, apart):
            fused.load_state_dict(state)
            model.zero_gradients()
            y, tape = model.forward(batch(), training, step=0)
            y = y[0] if model is apart else y
            dy = np.random.default_rng(2).standard_normal(y.shape).astype(np.float32)
            others = [np.zeros((len(y), *model.value_shapes[o]), np.float32) for o in model.outputs[1:]]
            dx = model.backward([dy, *others] if others else dy, tape)
            found = {"y": y, "dx": dx, **model.gradients(), **model.buffers()}
            results.append({key: value.copy() for key, value in found.items()})
        for key, value in results[0].items():
            # An output that is read by nobody adds a gradient of zeros, which turns -0 into 0.
            np.testing.assert_array_equal(results[1][key], value, err_msg=key)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_a_fused_model(training):
    model, rng = pair()[0], np.random.default_rng(4)
    for _, layer in model.layers():
        for arrays in (layer.params, layer.grads):
            arrays.update({key: value.astype(np.float64) for key, value in arrays.items()})
    x = batch(2, "float64")
    y, tape = model.forward(x, training, step=0)
    dy = rng.standard_normal(y.shape)
    dx = model.backward(dy, tape)
    assert_gradient(lambda v: float((model.forward(v, training, step=0)[0] * dy).sum()), x, dx, rng)


@pytest.mark.parametrize("n", [1, 40])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_convolution_takes_over_batch_normalization_in_inference(n, dtype):
    model, x = pair()[0], batch(n, dtype)
    assert sum(task.affine is not None for task in model.passes.tasks_of_inference) == 3
    expected, _ = model.forward(x, training=False)
    # Parameters are float32 in both, and folding them rounds; what follows is a chain of four sums.
    assert_close(model(x).astype(np.float32), expected.astype(np.float32), 4 * 4 * 9, f"batch of {n}")
    *_, (_, last) = model.trace(x)
    np.testing.assert_array_equal(last, expected)


@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("channels", "side", "layer"),
    [
        (3, 9, cl.Conv2d(5, 3, padding=1, algorithm="winograd")),
        (3, 9, cl.Conv2d(5, 3, stride=2, padding=1, algorithm="winograd")),
        (3, 9, cl.Conv2d(5, 5, padding=2, algorithm="winograd")),
        (3, 9, cl.Conv2d(5, (1, 7), padding=(1, 3), algorithm="winograd")),
        (3, 9, cl.Conv2d(5, (3, 1), algorithm="winograd")),
        (3, 9, cl.Conv2d(5, 3, algorithm="direct")),
        (40, 2, cl.Conv2d(5, 1)),
        (6, 7, cl.Conv2d(6, 3, groups=6)),
        (3, 9, cl.Conv2d(5, 3, algorithm="fft")),
    ],
    ids=repr,
)
def test_what_every_algorithm_takes_over(channels, side, layer, bias, isa):
    layer = type(layer)(**{**layer.config(), "bias": bias})
    rng = np.random.default_rng(5)
    output = layer.build((channels, side, side), rng)
    x = rng.standard_normal((3, channels, side, side)).astype(np.float32)
    scale, shift = rng.uniform(-2, 2, (2, output[0])).astype(np.float32)
    residual = rng.standard_normal((3, *output)).astype(np.float32)
    with kernels.using(isa=isa):
        plain, _ = layer.forward(x, training=False)
        scaled = functional.scale_shift(plain, scale, shift)
        wanted = {(True, False): scaled, (False, True): plain + residual, (True, True): scaled + residual}
        for (affine, added), expected in wanted.items():
            for relu in (False, True):
                fused = {"affine": (scale, shift) if affine else None, "residual": residual if added else None}
                y, _ = layer.forward(x, training=False, relu=relu, **fused)
                what = f"affine={affine}, residual={added}, relu={relu}"
                assert_close(y, np.maximum(expected, 0) if relu else expected, layer.params["weight"][0].size, what)


# Images beside tiles of 4 and 8 outputs, lines longer than a block of tiles, and more images than one block holds.
@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (3, 5, 7, 9), (2, 33, 4, 4), (40, 16, 8, 8), (1, 2, 3, 700), (2, 4, 37, 31)])
def test_a_residual_beside_the_edges_of_tiles(shape, stride, isa):
    rng = np.random.default_rng(6)
    layer = cl.Conv2d(6, 3, padding=1, stride=stride, algorithm="winograd")
    output = layer.build(shape[1:], rng)
    x = rng.standard_normal(shape).astype(np.float32)
    residual = rng.standard_normal((shape[0], *output)).astype(np.float32)
    with kernels.using(isa=isa), memory.poisoned():
        plain, _ = layer.forward(x, training=False)
        for threads in (1, 2, 5):
            with kernels.using(threads=threads):
                y, _ = layer.forward(x, training=False, residual=residual, relu=True)
            np.testing.assert_array_equal(y, np.maximum(plain + residual, 0), err_msg=f"{threads} threads")


# 1 x 1 in place, with a last vector that moves back, alone in its panels too, and slices of the channels; across the ends of
# images; rows, also of one large image; a stride; filters for lanes; groups; more filters than rows to share out; no pixel but
# one.
@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize(
    ("shape", "filters", "kernel", "how"),
    [
        ((3, 33, 9, 9), 17, 1, {}),
        ((1, 300, 13, 25), 90, 1, {}),
        ((2, 1200, 7, 7), 66, 1, {}),
        ((1, 1200, 12, 27), 66, 1, {}),
        ((3, 7, 3, 3), 20, 1, {}),
        ((5, 100, 7, 7), 130, 1, {}),
        ((7, 1200, 5, 5), 130, 1, {}),
        ((9, 200, 7, 7), 260, 1, {"groups": 2}),
        ((1, 9, 47, 46), 34, 1, {}),
        ((2, 40, 9, 9), 30, 1, {"stride": 2}),
        ((2, 5, 12, 31), 20, 3, {"padding": 1}),
        ((3, 16, 15, 15), 34, 3, {"stride": 2, "padding": 1}),
        ((2, 6, 8, 8), 9, 3, {"groups": 3}),
        ((3, 7, 5, 5), 16, 3, {"padding": 1}),
        ((1, 100, 6, 6), 180, 3, {"padding": 1}),
        ((2, 300, 1, 1), 70, 1, {}),
    ],
)
def test_a_residual_in_the_direct_kernel_s_last_pass(shape, filters, kernel, how, isa):
    """To the bits of an addition behind it, for any number of threads."""
    rng = np.random.default_rng(9)
    layer = cl.Conv2d(filters, kernel, algorithm="direct", **how)
    layer.build(shape[1:], rng)
    x, affine = rng.standard_normal(shape, np.float32), rng.uniform(-2, 2, (2, filters)).astype(np.float32)
    with kernels.using(isa=isa), memory.poisoned(), threads_at_every_size():
        for given in ({}, {"affine": affine}):
            plain, _ = layer.forward(x, training=False, **given)
            residual = rng.standard_normal(plain.shape, np.float32)
            for threads in (1, 2, 5):
                with kernels.using(threads=threads):
                    y, _ = layer.forward(x, training=False, residual=residual, **given)
                    rectified, _ = layer.forward(x, training=False, residual=residual, relu=True, **given)
                np.testing.assert_array_equal(y, plain + residual, err_msg=f"{threads} threads")
                np.testing.assert_array_equal(rectified, np.maximum(plain + residual, 0), err_msg=f"{threads} threads")


# A few pixels behind the last whole vector of 4, 8 or 16, alone in what is packed together too.
@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("pixels", [17, 18, 20, 21, 33, 49, 65, 66, 97, 100, 129, 196])
@pytest.mark.parametrize("channels", [33, 1000, 1300])
def test_a_residual_of_pixels_that_are_taken_apart(channels, pixels, isa):
    """To the bits of an addition behind it, which is the reference's within a rounding."""
    rng = np.random.default_rng(pixels)
    layer = cl.Conv2d(66, 1, algorithm="direct")
    layer.build((channels, 1, pixels), rng)
    x = rng.standard_normal((2, channels, 1, pixels), np.float32)
    y = functional.conv2d(x, *layer.params.values(), algorithm="einsum")
    residual = rng.standard_normal(y.shape, np.float32)
    with kernels.using(isa=isa), memory.poisoned(), threads_at_every_size():
        plain, _ = layer.forward(x, training=False)
        assert_close(plain, y, channels, "direct against the reference")
        for threads in (1, 2, 5):
            with kernels.using(threads=threads):
                summed, _ = layer.forward(x, training=False, residual=residual, relu=True)
            np.testing.assert_array_equal(summed, np.maximum(plain + residual, 0), err_msg=f"{threads} threads")


# 1 x 1 in place, rows, a stride, groups, filters for lanes, slices of the channels, fewer outputs than taps, depthwise in each
# layout, large kernels.
@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize(
    ("shape", "filters", "kernel", "how"),
    [
        ((3, 33, 9, 9), 17, 1, {}),
        ((2, 5, 12, 31), 20, 3, {"padding": 1}),
        ((3, 16, 15, 15), 34, 3, {"stride": 2, "padding": 1}),
        ((2, 6, 8, 8), 9, 3, {"groups": 3}),
        ((3, 7, 5, 5), 16, 3, {"padding": 1}),
        ((80, 300, 6, 6), 5, 3, {"padding": 1}),
        ((1, 300, 3, 3), 18, 1, {}),
        ((1, 70, 2, 3), 37, 3, {"padding": 1, "groups": 1}),
        ((2, 3, 20, 20), 4, 9, {"padding": 4}),
        ((9, 8, 4, 4), 8, 3, {"groups": 8, "padding": 1}),
        ((2, 8, 9, 70), 16, 5, {"groups": 8, "padding": 2}),
        ((2, 8, 9, 40), 8, 3, {"groups": 8, "padding": 1, "stride": 2}),
    ],
)
def test_a_scale_goes_into_direct_filters(shape, filters, kernel, how, isa):
    """To the bits of filters that are scaled beforehand, for any number of threads."""
    rng = np.random.default_rng(8)
    layer = cl.Conv2d(filters, kernel, algorithm="direct", **how)
    layer.build(shape[1:], rng)
    x, (scale, shift) = rng.standard_normal(shape, np.float32), rng.uniform(-2, 2, (2, filters)).astype(np.float32)
    twin = cl.Conv2d(filters, kernel, algorithm="direct", **how)
    twin.build(shape[1:], rng)
    wide = scale.reshape(-1, 1, 1, 1)
    twin.params.update(weight=layer.params["weight"] * wide, bias=layer.params["bias"] * scale + shift)
    with kernels.using(isa=isa), memory.poisoned(), threads_at_every_size():
        expected, _ = twin.forward(x, training=False, relu=True)
        for threads in (1, 2, 5):
            with kernels.using(threads=threads):
                y, _ = layer.forward(x, training=False, affine=(scale, shift), relu=True)
            np.testing.assert_array_equal(y, expected, err_msg=f"{threads} threads")


# Winograd at both strides, blocks of it, direct in every mode, depthwise in each layout, FFT, one axis and three.
@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (cl.Conv2d(17, 3, padding=1), (20, 9, 10)),
        (cl.Conv2d(40, 3, padding=1, stride=2), (40, 14, 14)),
        (cl.Conv2d(16, 5, padding=2), (16, 12, 12)),
        (cl.Conv2d(33, 1), (35, 8, 8)),
        (cl.Conv2d(300, 1), (1200, 3, 3)),
        (cl.Conv2d(6, 3, padding=1), (1, 8, 8)),
        (cl.Conv2d(40, 3, stride=2), (3, 15, 40)),
        (cl.Conv2d(34, 3, padding=1, groups=34), (34, 7, 7)),
        (cl.Conv2d(8, 3, padding=1, groups=8), (8, 9, 40)),
        (cl.Conv2d(4, 3, padding=1, groups=4, stride=2), (4, 9, 8)),
        (cl.Conv2d(3, 9, padding=4, algorithm="fft"), (2, 20, 20)),
        (cl.Conv2d(3, 3, algorithm="einsum"), (2, 6, 6)),
        (cl.Conv1d(5, 3), (3, 30)),
        (cl.Conv3d(5, 3, padding=1), (3, 4, 5, 6)),
    ],
)
def test_a_clip_from_0_on_goes_into_the_convolution(layer, shape, isa):
    """To the bits of the clip behind it, with and without batch normalization between; NaN and infinity as there."""
    for norm in (False, True):
        norms = [cl.BatchNorm1d() if len(shape) == 2 else cl.BatchNorm2d() if len(shape) == 3 else cl.BatchNorm3d()] * norm
        model = cl.Sequential([copy.deepcopy(layer), *norms, cl.Clip(0, 0.5)], input_shape=shape)
        assert len(model.passes.calls_of_inference) == 1
        plain = cl.Sequential([layer for _, layer in model.layers()][:-1], input_shape=shape)
        x = np.random.default_rng(0).standard_normal((3, *shape), np.float32)
        x[1, 0] = np.nan
        x[2].reshape(-1)[:3] = np.inf, -np.inf, -0.0
        with kernels.using(isa=isa), memory.poisoned(), np.errstate(invalid="ignore"):
            for n in (3, 1):
                expected = functional.activation("clip", plain(x[:n]), 0.0, 0.5)
                np.testing.assert_array_equal(model(x[:n]), expected)


@pytest.mark.parametrize("algorithm", ["direct", "winograd", "fft"])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_bound_that_float32_does_not_hold(algorithm, groups):
    model = cl.Sequential([cl.Conv2d(4, 3, algorithm=algorithm, groups=groups), cl.Clip(0, 0.1)], input_shape=(4, 9, 9))
    for _, layer in model.layers():
        layer.params = {name: array.astype(np.float64) for name, array in layer.params.items()}
    assert model(np.random.default_rng(0).standard_normal((2, 4, 9, 9))).max() == 0.1


@pytest.mark.parametrize("algorithm", ["direct", "winograd", "fft", "einsum"])
def test_a_relu_is_one_whatever_is_true(algorithm):
    x, w = np.random.default_rng(0).standard_normal((2, 3, 3, 9, 9), np.float32)
    w = w[:, :, :3, :3].copy()
    expected = functional.conv2d(x, w, algorithm=algorithm, relu=True)
    for relu in (1, np.True_, 0.5):
        np.testing.assert_array_equal(functional.conv2d(x, w, algorithm=algorithm, relu=relu), expected)


@pytest.mark.parametrize(
    "clip", [cl.Clip(-1, 6), cl.Clip(0), cl.Clip(max=6), cl.Clip(-0.0, 6), cl.Clip(0.5, 6), cl.Clip(0, 1e-50)]
)
def test_clips_that_stay(clip):
    model = cl.Sequential([cl.Conv2d(3, 3), clip], input_shape=(2, 5, 5))
    assert len(model.passes.calls_of_inference) == 2


def test_a_clip_stays_in_training_and_where_a_gradient_is_asked():
    model = cl.Sequential([cl.Conv2d(3, 3), cl.Clip(0, 0.25)], input_shape=(2, 5, 5))
    assert len(model.passes.calls) == 2
    x = batch()[:, :2, :5, :5]
    for training in (True, False):
        y, tape = model.forward(x, training=training)
        np.testing.assert_array_equal(y, model(x))
        assert model.backward(np.ones_like(y), tape).any()


def test_a_clip_goes_into_a_normalization_in_training_too():
    """To the bits of the clip behind it, forward and back."""
    rng = np.random.default_rng(0)
    for shape in ((3, 9, 9), (3, 1, 1)):
        x, dy = rng.standard_normal((2, 4, *shape), np.float32)
        fused, apart = (cl.Sequential([cl.BatchNorm2d(), cl.Clip(0, 0.5)], input_shape=shape) for _ in range(2))
        assert len(fused.passes.calls) == len(fused.passes.calls_of_inference) == 1
        (_, norm), (_, clip) = apart.layers()
        for training in (True, False):
            y, tape = fused.forward(x, training=training)
            z, cache = norm.forward(x, training=training)
            expected, kept = clip.forward(z, training=training)
            np.testing.assert_array_equal(y, expected)
            np.testing.assert_array_equal(fused.backward(dy, tape), norm.backward(clip.backward(dy, kept), cache))
        np.testing.assert_array_equal(fused(x), clip.forward(norm.forward(x, training=False)[0], training=False)[0])


def test_a_residual_of_another_shape_is_refused():
    layer = cl.Conv2d(4, 3)
    layer.build((2, 5, 5), np.random.default_rng(0))
    with pytest.raises(ShapeError, match=r"residual must have the output's shape \(1, 4, 3, 3\); got \(1, 4, 1, 3\)"):
        layer.forward(np.zeros((1, 2, 5, 5), np.float32), training=False, residual=np.zeros((1, 4, 1, 3), np.float32))


def residuals(model):
    """Which layers take over an addition, and what they add."""
    names, tasks = model.value_names, model.passes.tasks_of_inference
    return {task.step.name: names[task.sources[1]] for task in tasks if task.residual}


def test_additions_that_a_convolution_takes_over():
    x = cl.Input((3, 6, 6))
    stem = cl.Conv2d(4, 1)(x, name="stem")
    norm = cl.BatchNorm2d()(cl.Conv2d(4, 3, padding=1)(stem, name="conv"), name="norm")
    assert residuals(cl.Model(x, cl.ReLU()(cl.Add()(norm, stem)))) == {"conv": "stem"}
    assert residuals(cl.Model(x, cl.Add()(stem, norm))) == {"conv": "stem"}
    # Of two, the one with more weights; its input is computed before, whatever the order of the layers.
    side = cl.Conv2d(4, 1)(stem, name="side")
    model = cl.Model(x, cl.Add()(norm, side))
    assert residuals(model) == {"conv": "side"}
    value = batch()
    assert_close(model(value), model.forward(value, training=False)[0], 4 * 9, "two convolutions added")
    # One sum may be the residual of the next.
    more = cl.Conv2d(4, 3, padding=1)(cl.Add()(norm, stem, name="first"), name="more")
    assert residuals(cl.Model(x, cl.Add()(more, stem))) == {"conv": "stem", "more": "stem"}


def block(shape, relu, dtype, apart=False):
    """A residual block; `apart`, the same with nothing to take over, since every value is put out."""
    x = cl.Input(shape)
    stem = cl.Conv2d(shape[0], 1)(x, name="stem")
    norm = cl.BatchNorm2d(eps=1e-3)(cl.Conv2d(shape[0], 1)(stem), name="norm")
    add = cl.Add()(stem, norm)
    end = cl.ReLU()(add) if relu else add
    model, rng = cl.Model(x, [end, norm, add] if apart else end, seed=3), np.random.default_rng(4)
    for array in model.parameters().values():
        array += rng.uniform(-0.5, 0.5, array.shape).astype(np.float32)
    for _, layer in model.layers():
        for arrays in (layer.params, layer.grads, layer.buffers):
            arrays.update({key: value.astype(dtype) for key, value in arrays.items()})
    return model


# Planes of a few vectors and beside one, of more than a block of values, of one pixel; fewer channels than threads.
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("n", "shape"), [(3, (9, 3, 5)), (5, (7, 4, 4)), (2, (5, 31, 33)), (2, (1, 70, 70)), (9, (6, 1, 1)), (33, (8, 1, 17))]
)
def test_a_sum_that_a_normalization_takes_over_in_training(n, shape, dtype, relu):
    together, apart = block(shape, relu, dtype), block(shape, relu, dtype, apart=True)
    assert [task.step.name for task in together.passes.tasks if task.residual] == ["norm"]
    assert not any(task.residual for task in apart.passes.tasks)
    images, state = np.random.default_rng(1).normal(0.3, 1, (n, *shape)).astype(dtype), together.state_dict()

    def results(model):
        model.load_state_dict(state)
        model.zero_gradients()
        y, tape = model.forward(images, step=0)
        first = y[0] if isinstance(y, list) else y
        dy = np.random.default_rng(2).standard_normal(first.shape).astype(dtype)
        dx = model.backward([dy, *map(np.zeros_like, y[1:])] if isinstance(y, list) else dy, tape)
        # An output that nobody reads adds a gradient of zeros, which turns -0 into 0.
        return [np.asarray(a, dtype) + 0 for a in (first, dx, *model.gradients().values(), *model.buffers().values())]

    def compute():
        found = results(together)
        for number, (one, other) in enumerate(zip(found, results(apart), strict=True)):
            np.testing.assert_array_equal(one, other, err_msg=f"result {number}")
        return found

    on_every_machine(compute)


def test_sums_in_training_that_stay():
    x = cl.Input((3, 6, 6))
    stem = cl.Conv2d(3, 1)(x)
    shared = cl.BatchNorm2d()
    one, two = shared(stem), shared(cl.Conv2d(3, 1)(stem))
    for model in (
        cl.Model(x, cl.Add()(one, two)),  # which of the two passes comes first matters to the running statistics
        cl.Model(x, cl.Add()(cl.ReLU()(cl.BatchNorm2d()(stem)), stem)),
        cl.Model(x, cl.Add()(cl.BatchNorm2d()(stem), cl.GlobalAvgPool2d()(stem))),
        cl.Model(x, cl.Add()(cl.BatchNorm2d()(stem), stem, x)),
        cl.Model(x, cl.Add()(cl.Conv2d(3, 1)(stem), stem)),
    ):
        assert not any(task.residual for task in model.passes.tasks)


def test_a_sum_with_frozen_parameters():
    """Frozen weights get no gradient, frozen statistics are those that are used; the rest flows as it did."""
    for frozen in ("norm.weight", "norm", "norm.running_mean", "[!n]*"):
        together, apart = block((5, 4, 4), True, "float32"), block((5, 4, 4), True, "float32", apart=True)
        images = np.random.default_rng(1).standard_normal((3, 5, 4, 4), np.float32)
        found = []
        for model in (together, apart):
            model.freeze(frozen)
            y, tape = model.forward(images, step=0)
            dy = [np.ones_like(y[0]), *map(np.zeros_like, y[1:])] if isinstance(y, list) else np.ones_like(y)
            found.append([model.backward(dy, tape) + 0, *model.gradients().values(), *model.buffers().values()])
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=frozen)


def test_additions_that_stay():
    x = cl.Input((3, 6, 6))
    stem = cl.Conv2d(4, 1)(x, name="stem")
    conv = cl.Conv2d(4, 3, padding=1)(stem, name="conv")
    for stays in (
        [cl.Add()(conv, stem), conv],  # others read it
        [cl.Add()(cl.ReLU()(conv), stem)],  # a ReLU is in between
        [cl.Add()(conv, cl.Conv2d(4, 6)(stem))],  # one is broadcast
        [cl.Add()(conv, stem, stem)],
        [cl.Add()(conv, conv)],
        [cl.Multiply()(conv, stem)],
    ):
        model = cl.Model(x, stays)
        assert residuals(model) == {}
        value = batch()
        got, expected = model(value), model.forward(value, training=False)[0]
        for one, other in zip([got], [expected], strict=True) if len(stays) == 1 else zip(got, expected, strict=True):
            assert_close(one, other, 4 * 36, repr(stays[0].layer))


def test_weights_and_statistics_may_change_between_calls():
    model, x = pair()[0], batch()
    before = model(x)
    model.parameters()["conv2d.weight"][...] *= -2
    model.forward(x)
    after = model(x)
    assert (before != after).any()
    assert_close(after, model.forward(x, training=False)[0], 4 * 4 * 9, "after a change")


def test_what_stays_when_only_parameters_are_trained():
    x = cl.Input((3, 6, 6))
    model = cl.Model(x, cl.ReLU()(cl.BatchNorm2d()(x)))
    y, tape = model.forward(batch(), step=0)
    assert model.backward(np.ones_like(y), tape, input_gradient=False) is None
    first = {key: g.copy() for key, g in model.gradients().items()}
    model.zero_gradients()
    model.backward(np.ones_like(y), tape)
    for key, gradient in model.gradients().items():
        np.testing.assert_array_equal(gradient, first[key])
