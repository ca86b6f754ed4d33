"""Models: what flows forward and back, shared layers, threads, states, configurations, tables."""

import json
import threading

import numpy as np
import pytest
from helpers import images, residual, small_cnn

import convlayers as cl
from convlayers.errors import ArrayTypeError, FileFormatError
from convlayers.testing import assert_close, assert_gradient

# Forward and backward


@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_a_chain(training):
    model, x, rng = small_cnn(), images(dtype="float64"), np.random.default_rng(2)
    y, tape = model.forward(x, training, step=7)
    dy = rng.standard_normal(y.shape)
    dx = model.backward(dy, tape)
    assert_gradient(lambda v: float((model.forward(v, training, step=7)[0] * dy).sum()), x, dx, rng)


def test_gradients_of_a_graph_with_a_shared_layer():
    model, rng = residual(), np.random.default_rng(3)
    assert list(model.parameters()) == ["left.weight", "left.bias"]
    conv = model.steps[0].layer
    for arrays in (conv.params, conv.grads):
        arrays.update({key: value.astype(np.float64) for key, value in arrays.items()})
    a, b = rng.standard_normal((2, 2, 3, 6, 6))
    y, tape = model.forward([a, b])
    dy = rng.standard_normal(y.shape)
    da, db = model.backward(dy, tape)
    assert_gradient(lambda v: float((model([v, b]) * dy).sum()), a, da, rng, "a")
    assert_gradient(lambda v: float((model([a, v]) * dy).sum()), b, db, rng, "b")

    def of_weight(weight):
        before, conv.params["weight"] = conv.params["weight"], weight
        try:
            return float((model([a, b]) * dy).sum())
        finally:
            conv.params["weight"] = before

    assert_gradient(of_weight, conv.params["weight"], conv.grads["weight"], rng, "the shared weight")


def test_gradients_of_several_outputs_meet():
    x = cl.Input((4,))
    hidden = cl.Dense(3)(x)
    model = cl.Model(x, [hidden, cl.Tanh()(hidden), hidden], seed=1)
    rng = np.random.default_rng(4)
    value = rng.standard_normal((2, 4))
    outputs, tape = model.forward(value)
    assert [y.shape for y in outputs] == [(2, 3)] * 3
    gradients = [rng.standard_normal((2, 3)) for _ in outputs]
    dx = model.backward(gradients, tape)
    assert_gradient(lambda v: sum(float((y * g).sum()) for y, g in zip(model(v), gradients, strict=True)), value, dx, rng)
    with pytest.raises(ArrayTypeError, match="the model has 3 outputs, so backward takes as many gradients; got 1"):
        model.backward(gradients[0], tape)


def test_backward_adds_and_zero_gradients_clears():
    model, x = small_cnn(), images()
    y, tape = model.forward(x, step=1)
    model.backward(np.ones_like(y), tape)
    once = {name: g.copy() for name, g in model.gradients().items()}
    model.backward(np.ones_like(y), tape)
    for name, gradient in model.gradients().items():
        assert_close(gradient, 2 * once[name], 1, name)
    model.zero_gradients()
    assert all(not g.any() for g in model.gradients().values())


def test_without_the_inputs_gradient_the_parameters_get_the_same():
    model, x = small_cnn(), images()
    results = []
    for input_gradient in (True, False):
        model.zero_gradients()
        y, tape = model.forward(x, step=1)
        dx = model.backward(np.ones_like(y), tape, input_gradient=input_gradient)
        assert (dx is not None) == input_gradient
        results.append({name: g.copy() for name, g in model.gradients().items()})
    for name in results[0]:
        np.testing.assert_array_equal(results[0][name], results[1][name])


def test_training_passes_draw_by_step_and_seed():
    model, x = small_cnn(), images()
    first, second = model.forward(x)[0], model.forward(x)[0]
    assert (first != second).any(), "each training pass is a step of its own"
    np.testing.assert_array_equal(model.forward(x, step=5)[0], model.forward(x, step=5)[0])
    assert (model.forward(x, step=5, seed=1)[0] != model.forward(x, step=5, seed=2)[0]).any()
    np.testing.assert_array_equal(model.forward(x, training=False)[0], model(x))


def test_trace_gives_what_each_step_computes():
    model, x = small_cnn(), images()
    traced = dict(model.trace(x))
    assert list(traced) == [step.name for step in model.steps]
    np.testing.assert_array_equal(traced["5"], model(x))
    np.testing.assert_array_equal(dict(model.trace(x, training=True, step=3))["5"], model.forward(x, step=3)[0])


def test_two_threads_run_one_model_at_once():
    model, xs = small_cnn(), [images(40) * scale for scale in (1, -0.5)]
    expected = []
    for x in xs:
        y, tape = model.forward(x, step=2)
        expected.append((y, model.backward(np.ones_like(y), tape)))
    failures, barrier = [], threading.Barrier(2)

    def work(x, wanted):
        barrier.wait()
        for _ in range(30):
            y, tape = model.forward(x, step=2)
            dx = model.backward(np.ones_like(y), tape)
            if not (np.array_equal(y, wanted[0]) and np.array_equal(dx, wanted[1])):
                failures.append("another result")
                return

    threads = [threading.Thread(target=work, args=pair) for pair in zip(xs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# States, configurations, tables


def test_state_dict_is_a_copy_and_loads_back():
    model, other = small_cnn(1), small_cnn(2)
    state = model.state_dict()
    other.load_state_dict(state)
    np.testing.assert_array_equal(other(images()), model(images()))
    state["0.weight"].fill(0)
    assert model.parameters()["0.weight"].any()
    other.load_state_dict({name: value.astype(np.float64) for name, value in model.state_dict().items()})
    assert other.parameters()["0.weight"].dtype == np.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("5.bias"), r"missing: 5\.bias"),
        (lambda s: s.update(extra=np.ones(3)), r"not of this model: extra"),
        (
            lambda s: s.update({"5.bias": np.ones(4, np.float32)}),
            r"5\.bias is float32 of shape \(3,\) in the model; the state has",
        ),
        (lambda s: s.update({"5.bias": np.ones(3, int)}), r"5\.bias is float32"),
        (lambda s: s.update({"5.bias": np.ones(3, complex)}), r"5\.bias is float32"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    model = small_cnn(1)
    before = model.state_dict()
    state = {name: value + 1 for name, value in before.items()}
    change(state)
    with pytest.raises(FileFormatError, match=message):
        model.load_state_dict(state)
    for name, value in model.parameters().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("make", [small_cnn, residual])
def test_configurations_come_back(make):
    model = make(3)
    model.metadata = {"labels": ["a", "b"]}
    config = json.loads(json.dumps(model.to_config()))
    again = cl.Model.from_config(config)
    assert type(again) is type(model)
    assert again.to_config() == config
    assert list(again.parameters()) == list(model.parameters())
    again.load_state_dict(model.state_dict())
    x = [np.ones((2, *shape), np.float32) for shape in model.input_shapes]
    x = x if len(x) > 1 else x[0]
    np.testing.assert_array_equal(again(x), model(x))


def _changed(key, value):
    config = small_cnn().to_config()
    config[key] = value
    return config


@pytest.mark.parametrize(
    "config",
    [
        {},
        [],
        None,
        5,
        _changed("version", 2),
        _changed("layers", 5),
        _changed("layers", [5]),
        _changed("layers", [{"name": "0", "layer": "relu", "config": {"slope": 1}, "inputs": [0]}]),
        _changed("layers", [{"name": "0", "layer": "conv2d", "config": {}, "inputs": [0]}]),
        _changed("layers", [{"name": "0", "shares": 3, "inputs": [0]}]),
        _changed("inputs", []),
        _changed("inputs", [[2, 6]]),
        _changed("kind", "graph") | {"outputs": [99]},
        _changed("metadata", 5),
        _changed("seed", "x"),
    ],
)
def test_configurations_that_describe_no_model(config):
    with pytest.raises(cl.ConvlayersError):
        cl.Model.from_config(config)


def test_a_deep_graph_needs_no_recursion():
    x = node = cl.Input((3,))
    for _ in range(1200):
        node = cl.ReLU()(node)
    model = cl.Model(x, node)
    assert len(model.steps) == 1200
