"""Normalization layers: running statistics, state, ONNX, and the errors that they name."""

import threading

import numpy as np
import pytest

import convlayers as cl
from convlayers import functional
from convlayers.errors import ArrayTypeError, ConfigError, ShapeError
from convlayers.model.fusion import plan
from convlayers.randomness import generator
from convlayers.testing import assert_close


def built(channels=3, **config):
    layer = cl.BatchNorm2d(**config)
    layer.build((channels, 4, 4), generator(0, "test"))
    layer.grads = {key: np.zeros_like(value) for key, value in layer.params.items()}
    return layer


def images(seed, *shape):
    return np.random.default_rng(seed).normal(2, 3, shape).astype(np.float32)


def test_it_starts_as_in_torch():
    layer = built(2)
    for arrays in (layer.params, layer.buffers):
        assert all(array.dtype == np.float32 for array in arrays.values())
    np.testing.assert_array_equal(layer.params["weight"], [1, 1])
    np.testing.assert_array_equal(layer.params["bias"], [0, 0])
    np.testing.assert_array_equal(layer.buffers["running_mean"], [0, 0])
    np.testing.assert_array_equal(layer.buffers["running_var"], [1, 1])
    x = images(0, 5, 2, 3, 3)
    np.testing.assert_allclose(layer.forward(x, training=False)[0], x / np.sqrt(1 + 1e-5), rtol=1e-6)


def test_arrays_are_found_by_name():
    model = cl.Sequential([cl.Conv2d(3, 3, bias=False), cl.BatchNorm2d()], input_shape=(2, 6, 6), seed=2)
    norm, rng, x = model.steps[1].layer, np.random.default_rng(3), images(1, 4, 2, 6, 6)
    for arrays in (norm.params, norm.buffers):
        arrays.update({name: rng.uniform(0.5, 2, 3).astype(np.float32) for name in arrays})
    state, results = model.state_dict(), []
    for turn in (1, -1):
        norm.params, norm.buffers = dict([*norm.params.items()][::turn]), dict([*norm.buffers.items()][::turn])
        model.load_state_dict(state)
        results.append([model(x), model.forward(x, training=True, step=0)[0], norm.buffers["running_mean"].copy()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_running_statistics_move_in_arrays_of_any_kind():
    x = images(1, 4, 3, 5, 2)
    expected, layer = built(), built()
    layer.buffers = {"running_mean": np.zeros(6, np.float32)[::2], "running_var": np.ones(3)}
    for each in (expected, layer):
        each.forward(x, training=True)
    for name, array in expected.buffers.items():
        np.testing.assert_array_equal(layer.buffers[name], array)


@pytest.mark.parametrize(
    ("moments", "values", "var"),
    [(np.ones((2, 4)), 5, np.ones(3)), (np.ones((2, 3)), 1, np.ones(3)), (np.ones((2, 3)), 5, [1.0])],
)
def test_running_statistics_and_moments_must_fit(moments, values, var):
    mean = np.zeros(3, np.float32)
    with pytest.raises(ShapeError, match=r"batch_norm: (moments|var) must have shape"):
        functional.batch_norm_follow(mean, np.asarray(var, np.float32), moments, 0.1, values)
    np.testing.assert_array_equal(mean, 0)


def test_running_statistics_move_by_momentum_towards_the_batch():
    layer, x = built(momentum=0.25), images(1, 4, 3, 5, 2)
    mean, var = x.astype(float).mean(axis=(0, 2, 3)), x.astype(float).var(axis=(0, 2, 3), ddof=1)
    y, _ = layer.forward(x, training=True)
    np.testing.assert_allclose(layer.buffers["running_mean"], 0.25 * mean, rtol=1e-6)
    np.testing.assert_allclose(layer.buffers["running_var"], 0.75 + 0.25 * var, rtol=1e-6)
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(y.var(axis=(0, 2, 3)), 1, rtol=1e-5)
    before = {key: value.copy() for key, value in layer.buffers.items()}
    layer.forward(x, training=False)
    for key, value in layer.buffers.items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize("config", [{}, {"eps": 0.1, "momentum": 0.5}, {"momentum": 0}, {"momentum": 1}])
def test_against_torch_over_several_steps(config):
    torch = pytest.importorskip("torch", reason="PyTorch is the second judge where it is installed")
    layer, peer = built(**config), torch.nn.BatchNorm2d(3, **config)
    for step, shape in enumerate([(4, 3, 5, 2), (2, 3, 1, 1), (1, 3, 8, 8)]):
        x = images(step, *shape)
        y, _ = layer.forward(x, training=True)
        assert_close(y, peer(torch.from_numpy(x)).detach().numpy(), 64, f"step {step}")
        for key, value in layer.buffers.items():
            assert_close(value, getattr(peer, key).numpy(), 64, f"{key} after step {step}")
    peer.eval()
    x = images(9, 3, 3, 4, 4)
    assert_close(layer.forward(x, training=False)[0], peer(torch.from_numpy(x)).detach().numpy(), 4, "inference")


def test_one_value_a_channel_has_no_variance():
    layers = [cl.MaxPool2d(4), ("norm", cl.BatchNorm2d())]
    model = cl.Sequential(layers, input_shape=(2, 4, 4))
    x = images(0, 2, 2, 4, 4)
    model.forward(x)
    before = model.state_dict()
    with pytest.raises(ShapeError, match=r'^BatchNorm2d "norm": .*a channel needs two values at least.*\(1, 2, 1, 1\)$'):
        model.forward(x[:1])
    assert model(x[:1]).shape == (1, 2, 1, 1)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_an_empty_batch_changes_nothing():
    layer = built()
    y, cache = layer.forward(images(0, 0, 3, 4, 4), training=True)
    assert layer.backward(y, cache).shape == (0, 3, 4, 4)
    np.testing.assert_array_equal(layer.buffers["running_mean"], 0)
    np.testing.assert_array_equal(layer.buffers["running_var"], 1)


def test_statistics_are_state_and_no_parameters():
    model = cl.Sequential([("norm", cl.BatchNorm2d())], input_shape=(2, 4, 4))
    assert list(model.parameters()) == ["norm.weight", "norm.bias"]
    assert list(model.buffers()) == ["norm.running_mean", "norm.running_var"]
    assert list(model.state_dict()) == [*model.parameters(), *model.buffers()]


def test_a_layer_at_two_places_learns_from_both():
    x, norm = cl.Input((2, 4, 4)), cl.BatchNorm2d(momentum=0.5)
    model = cl.Model(x, cl.Add()(norm(x, name="one"), norm(cl.ReLU()(x), name="two")))
    batch = images(0, 3, 2, 4, 4)
    model.forward(batch)
    first, second = batch.mean(axis=(0, 2, 3)), np.maximum(batch, 0).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(model.buffers()["one.running_mean"], 0.25 * first + 0.5 * second, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"eps": 0}, "eps must be greater than 0 and finite; got 0"),
        ({"eps": -1e-5}, "eps must be greater than 0"),
        ({"eps": float("nan")}, "eps must be greater than 0"),
        ({"eps": "1e-5"}, "eps must be greater than 0"),
        ({"eps": True}, "eps must be greater than 0"),
        ({"momentum": 1.5}, r"momentum must be at least 0 and at most 1; got 1\.5"),
        ({"momentum": None}, "momentum must be at least 0"),
        ({"momentum": float("nan")}, "momentum must be at least 0"),
    ],
)
def test_arguments_out_of_range(config, message):
    with pytest.raises(ConfigError, match=message):
        cl.BatchNorm2d(**config)


@pytest.mark.parametrize("layer", [cl.BatchNorm2d(), cl.GlobalAvgPool2d()])
def test_images_only(layer):
    with pytest.raises(ShapeError, match=r"takes images \(C, H, W\); got a sample of shape \(7,\)"):
        layer.build((7,), generator(0, "test"))


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (cl.BatchNorm1d(), (3, 4, 5), r"takes vectors \(C,\) or signals \(C, L\); got a sample of shape \(3, 4, 5\)"),
        (cl.BatchNorm3d(), (3, 4, 5), r"takes volumes \(C, D, H, W\); got a sample of shape \(3, 4, 5\)"),
        (cl.LayerNorm(3), (3, 4), r"axis 3 is outside a batch of samples of shape \(3, 4\)"),
        (cl.LayerNorm(-1), (3, 1), "what is normalized needs two values at least, to have a variance; got 1"),
        (cl.GroupNorm(4), (6, 5), r"groups 4 must divide the channels of a sample \(C, \.\.\.\); got \(6, 5\)"),
        (cl.GroupNorm(6), (6,), "a group needs two values at least, to have a variance; got 1"),
        (cl.InstanceNorm(), (6,), r"takes signals, images or volumes \(C, \.\.\.\); got a sample of shape \(6,\)"),
        (cl.InstanceNorm(), (6, 1, 1), "a channel needs two values at least, to have a variance; got 1"),
    ],
)
def test_samples_that_do_not_fit(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        layer.build(shape, generator(0, "test"))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cl.LayerNorm(0), ConfigError, "axis is an int other than 0, the batch; got 0"),
        (lambda: cl.LayerNorm(eps=-1), ConfigError, "eps must be greater than 0 and finite; got -1"),
        (lambda: cl.GroupNorm(0), ConfigError, "groups must be at least 1; got 0"),
        (lambda: cl.GroupNorm(2.0), ArrayTypeError, r"groups is an int; got 2\.0"),
        (lambda: cl.InstanceNorm(affine="no"), ArrayTypeError, "affine is True or False; got 'no'"),
        (lambda: cl.InstanceNorm(eps=float("inf")), ConfigError, "eps must be greater than 0 and finite; got inf"),
    ],
)
def test_other_arguments_out_of_range(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_one_vector_has_no_variance():
    layer = cl.BatchNorm1d()
    layer.build((3,), generator(0, "test"))
    with pytest.raises(ShapeError, match=r"a channel needs two values at least, to have a variance; x is \(1, 3\)"):
        layer.forward(np.ones((1, 3), np.float32), training=True)


@pytest.mark.parametrize(
    ("layer", "shape", "parameters"),
    [
        (cl.LayerNorm(), (3, 4, 5), (3, 4, 5)),
        (cl.LayerNorm(-1), (3, 4, 5), (5,)),
        (cl.GroupNorm(3), (6, 4, 5), (6,)),
        (cl.InstanceNorm(affine=True), (6, 5), (6,)),
    ],
)
@pytest.mark.parametrize("opset", [13, 17])
def test_parameters_keep_their_names_in_onnx(layer, shape, parameters, opset, tmp_path):
    import onnx

    model = cl.Sequential([("norm", type(layer)(**layer.config()))], input_shape=shape)
    assert {key: value.shape for key, value in model.parameters().items()} == {
        "norm.weight": parameters,
        "norm.bias": parameters,
    }
    cl.export_onnx(model, tmp_path / "m.onnx", opset)
    written = {value.name: tuple(value.dims) for value in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert written.items() >= {"norm.weight": parameters, "norm.bias": parameters}.items()


def test_batch_normalization_of_any_rank_takes_over_its_relu():
    for norm, shape in ((cl.BatchNorm1d(), (5,)), (cl.BatchNorm1d(), (3, 4)), (cl.BatchNorm3d(), (3, 2, 2, 2))):
        model = cl.Sequential([norm, cl.ReLU()], input_shape=shape)
        assert [task.relu for task in plan(model.steps, model.outputs, affine=False)] == [True]


def test_threads_infer_at_once():
    layer, batches = built(17), [images(seed, 6, 17, 9, 9) for seed in range(3)]
    layer.forward(batches[0], training=True)
    expected = [layer.forward(x, training=False)[0] for x in batches]
    failures = []

    def work(x, wanted):
        if any(layer.forward(x, training=False)[0].tobytes() != wanted.tobytes() for _ in range(50)):
            failures.append("another result")

    threads = [threading.Thread(target=work, args=pair) for pair in zip(batches, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_onnx_keeps_the_configuration(tmp_path):
    import onnx

    model = cl.Sequential([("norm", cl.BatchNorm2d(eps=0.01, momentum=0.25))], input_shape=(2, 4, 4))
    model.forward(images(0, 3, 2, 4, 4))
    cl.export_onnx(model, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in graph.node[0].attribute}
    assert attributes["epsilon"] == np.float32(0.01)
    assert attributes["momentum"] == 0.75
    assert list(graph.node[0].input) == ["input", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]
