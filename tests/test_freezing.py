"""Freezing: what patterns name, what is computed and what is not, and training around it, to the bit."""

import json
import re

import numpy as np
import pytest
from training import At, stop, stripes

import convlayers as cl
from convlayers.errors import ConfigError
from convlayers.testing import assert_gradient
from convlayers.trainer import Callback


def network(seed=0):
    layers = [
        ("features/conv", cl.Conv2d(4, 3, padding=1)),
        ("features/norm", cl.BatchNorm2d()),
        ("features/act", cl.ReLU()),
        ("middle", cl.Conv2d(3, 3)),
        ("bend", cl.ReLU()),
        ("flat", cl.Flatten()),
        ("drop", cl.Dropout(0.3)),
        ("head", cl.Dense(3)),
    ]
    return cl.Sequential(layers, input_shape=(1, 6, 6), seed=seed)


def bits(arrays):
    return {name: array.tobytes() for name, array in arrays.items()}


NORM = ["features/norm.weight", "features/norm.bias", "features/norm.running_mean", "features/norm.running_var"]
CONV = ["features/conv.weight", "features/conv.bias"]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["features/*"], CONV + NORM),
        (["features/conv"], CONV),
        (["*.bias"], ["features/conv.bias", "features/norm.bias", "middle.bias", "head.bias"]),
        (["*.running_*"], NORM[2:]),
        (["head", "head.bias", "m?ddle.weight"], ["head.weight", "head.bias", "middle.weight"]),
        (["[mh]*.weight"], ["middle.weight", "head.weight"]),
    ],
)
def test_patterns(patterns, names):
    model = network()
    everything = bits(model.state_dict())
    assert model.freeze(*patterns) == names
    assert model.frozen == set(names)
    assert list(model.trainable_parameters()) == [name for name in model.parameters() if name not in names]
    assert len(model.parameters()) == 8
    assert model.unfreeze(*patterns) == names
    assert not model.frozen
    model.freeze("*")
    assert model.unfreeze() == [*CONV, *NORM, "middle.weight", "middle.bias", "head.weight", "head.bias"]
    assert bits(model.state_dict()) == everything


@pytest.mark.parametrize("pattern", ["features", "drop", "Head", "", "*.scale", "flat*"])
def test_a_pattern_that_matches_nothing(pattern):
    model = network()
    rule = re.escape(f"freeze: {pattern!r} matches no parameter and no layer that has any; there are features/conv, ")
    with pytest.raises(ConfigError, match=rule):
        model.freeze("head", pattern)
    with pytest.raises(ConfigError, match=r"^unfreeze: "):
        model.unfreeze(pattern)
    assert not model.frozen


def test_a_shared_layer_is_frozen_by_any_of_its_names():
    x, conv = cl.Input((1, 4, 4)), cl.Conv2d(1, 3, padding=1)
    model = cl.Model(x, conv(conv(x, name="first"), name="second"))
    assert model.freeze("second.*") == ["first.weight", "first.bias"]
    assert model.freeze("second") == ["first.weight", "first.bias"]


def passes(model, x, dy, **how):
    model.zero_gradients()
    y, tape = model.forward(x, step=2)
    dx = model.backward(dy, tape, **how)
    return y, dx, {name: gradient.copy() for name, gradient in model.gradients().items()}


@pytest.mark.parametrize("pattern", ["features/conv", "middle", "*.bias", "head", "middle.weight", "*.weight"])
def test_the_others_gradients_stay_the_same_to_the_bit(pattern):
    model, x = network(), stripes(7)[0]
    dy = np.random.default_rng(1).standard_normal((7, 3)).astype(np.float32)
    y, dx, whole = passes(model, x, dy)
    frozen = model.freeze(pattern)
    for how in ({}, {"input_gradient": False}):
        y_now, dx_now, gradients = passes(model, x, dy, **how)
        assert y_now.tobytes() == y.tobytes()
        assert dx_now is None if how else dx_now.tobytes() == dx.tobytes()
        for name, gradient in gradients.items():
            assert gradient.tobytes() == (np.zeros_like(gradient) if name in frozen else whole[name]).tobytes(), name


def test_freezing_clears_the_gradient():
    model, x = network(), stripes(7)[0]
    passes(model, x, np.ones((7, 3), np.float32))
    model.freeze("head")
    assert not model.gradients()["head.weight"].any()
    assert model.gradients()["middle.weight"].any()


def test_gradients_around_a_frozen_layer_at_two_places():
    x, conv = cl.Input((2, 4, 4)), cl.Conv2d(2, 3, padding=1)
    first = cl.Conv2d(2, 1)(x, name="first")
    y = cl.Flatten()(cl.Add()(cl.ReLU()(conv(first, name="a")), conv(cl.Tanh()(first), name="b"), first))
    model, rng = cl.Model(x, y), np.random.default_rng(0)
    for _, layer in model.layers():
        for arrays in (layer.params, layer.grads):
            arrays.update({key: value.astype(np.float64) for key, value in arrays.items()})
    model.freeze("a")
    value, dy = rng.standard_normal((2, 2, 4, 4)), rng.standard_normal((2, 32))
    _, dx, gradients = passes(model, value, dy)
    assert_gradient(lambda v: float((model(v) * dy).sum()), value, dx, rng)
    layer = model.node("first").layer
    weight = layer.params["weight"]

    def of_weight(moved):
        layer.params["weight"] = moved
        try:
            return float((model(value) * dy).sum())
        finally:
            layer.params["weight"] = weight

    assert_gradient(of_weight, weight, gradients["first.weight"], rng, "the trained weight")
    assert not gradients["a.weight"].any()


class Watched(cl.Layer):
    """Passes its input on, with a parameter, and counts the work of the backward pass."""

    def __init__(self):
        self.calls = []

    def config(self):
        return {}

    def build(self, input_shape, rng):
        self.params["w"] = np.ones(1, np.float32)
        return input_shape

    def forward(self, x, *, training):
        return x, None

    def backward(self, dy, cache):
        self.calls.append("backward")
        return dy

    def accumulate(self, dy, cache):
        self.calls.append("accumulate")

    def backward_input(self, dy, cache):
        self.calls.append("backward_input")
        return dy


@pytest.mark.parametrize(
    ("frozen", "work"),
    [
        ([], ["accumulate", "backward", "backward"]),
        ([0], [None, "accumulate", "backward"]),
        ([0, 1], [None, None, "accumulate"]),
        ([1], ["accumulate", "backward_input", "backward"]),
        ([2], ["accumulate", "backward", "backward_input"]),
        ([1, 2], ["accumulate", "backward_input", "backward_input"]),
        ([0, 1, 2], [None, None, None]),
    ],
)
def test_what_nobody_needs_is_not_computed(frozen, work):
    layers = [Watched() for _ in work]
    model = cl.Sequential([*layers[:1], cl.Tanh(), *layers[1:]], input_shape=(3,))
    for number in frozen:
        model.freeze(["0", "2", "3"][number])
    y, tape = model.forward(np.ones((2, 3), np.float32))
    assert model.backward(y, tape, input_gradient=False) is None
    assert [layer.calls for layer in layers] == [[name] if name else [] for name in work]
    model.backward(y, tape)
    assert [layer.calls[-1] for layer in layers] == ["backward_input" if n in frozen else "backward" for n in range(3)]


# Batch normalization


def test_frozen_batch_normalization_runs_in_inference():
    model, x = network(), stripes(7)[0]
    model.forward(x)
    model.freeze("features/norm")
    before = bits(model.buffers())
    traced = dict(model.trace(x, training=True, step=1))
    y, tape = model.forward(x, step=1)
    inference = dict(model.trace(x))
    assert traced["features/norm"].tobytes() == inference["features/norm"].tobytes()
    assert traced["head"].tobytes() == y.tobytes()
    assert bits(model.buffers()) == before
    # The rest still trains: dropout draws, and what flows back takes the running statistics for constants.
    assert traced["drop"].tobytes() != inference["drop"].tobytes()
    model.backward(np.ones_like(y), tape)
    assert model.gradients()["features/conv.weight"].any()
    assert not model.gradients()["features/norm.weight"].any()


def test_frozen_parameters_of_batch_normalization_alone_leave_it_in_training():
    model, same, x = network(), network(), stripes(7)[0]
    model.freeze("features/norm.weight", "features/norm.bias")
    assert model.forward(x, step=1)[0].tobytes() == same.forward(x, step=1)[0].tobytes()
    assert bits(model.buffers()) == bits(same.buffers())
    assert model.buffers()["features/norm.running_mean"].any()


# Training


OPTIMIZERS = [cl.SGD(0.05, momentum=0.9, weight_decay=0.1), cl.AdamW(0.01, weight_decay=0.1), cl.RMSprop(0.01)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
def test_what_is_frozen_stays_and_has_no_state(optimizer):
    model = network()
    model.forward(stripes()[0])
    frozen = model.freeze("features/*", "middle.bias")
    before = bits(model.state_dict())
    trainer = cl.Trainer(model, optimizer=optimizer)
    trainer.fit(stripes(), epochs=2, batch_size=16, progress=False)
    after = bits(model.state_dict())
    assert [name for name in before if before[name] == after[name]] == [n for n in model.state_dict() if n in frozen]
    slots = [key for key in trainer.optimizer.state_dict() if ":" in key]
    assert {key.split(":")[1] for key in slots} == {"middle.weight", "head.weight", "head.bias"}


def test_a_head_on_frozen_features_is_the_head_on_their_outputs():
    """Fine-tuning, against training the head alone on what the frozen part computes."""
    x, y = stripes()
    base = network()
    node = base.node("flat")
    features = cl.Model(base.input_nodes, node)
    whole = cl.Model(base.input_nodes, cl.Dense(3)(node), seed=5)
    whole.freeze("features/*", "middle")
    head = cl.Sequential([cl.Dense(3)], input_shape=node.shape)
    head.load_state_dict({f"0.{key}": whole.parameters()[f"dense.{key}"] for key in ("weight", "bias")})
    fit = {"epochs": 3, "batch_size": 16, "progress": False}
    history = cl.Trainer(whole, optimizer=cl.Adam(0.01), seed=2).fit((x, y), **fit)
    alone = cl.Trainer(head, optimizer=cl.Adam(0.01), seed=2).fit((features.forward(x, training=False)[0], y), **fit)
    assert history == alone
    for key, array in head.parameters().items():
        assert array.tobytes() == whole.parameters()[f"dense.{key[2:]}"].tobytes()


def test_freezing_belongs_to_the_model():
    base = network()
    base.freeze("*")
    other = cl.Model(base.input_nodes, base.node("flat"))
    assert list(other.trainable_parameters()) == list(other.parameters())
    assert not base.trainable_parameters()


def test_a_model_that_is_frozen_whole_is_not_trained():
    model = network()
    model.freeze("*")
    trainer = cl.Trainer(model)
    with pytest.raises(ConfigError, match=r"^fit: every parameter of the model is frozen; model\.unfreeze\(\)"):
        trainer.fit(stripes(), progress=False)
    assert trainer.evaluate(stripes())["loss"] > 0


def test_configurations_and_files_keep_it(tmp_path):
    model = network()
    model.freeze("features/*", "*.bias")
    config = json.loads(json.dumps(model.to_config()))
    assert cl.Model.from_config(config).frozen == model.frozen
    model.save(tmp_path / "m")
    assert cl.load(tmp_path / "m").frozen == model.frozen
    model.unfreeze("head")
    assert cl.Model.from_config(config).frozen - model.frozen == {"head.bias"}


FIT = {"epochs": 3, "batch_size": 16, "progress": False}  # 4 batches an epoch


@pytest.mark.parametrize("at", [1, 4, 6])
def test_resuming_keeps_it(tmp_path, at):
    straight = cl.Trainer(network(), optimizer=cl.AdamW(0.01), seed=3)
    straight.model.freeze("features/*")
    straight.fit(stripes(), **FIT)
    first = cl.Trainer(network(), optimizer=cl.AdamW(0.01), callbacks=[At(at, stop)], seed=3)
    first.model.freeze("features/*")
    first.fit(stripes(), **FIT)
    first.save(tmp_path / "run")
    again = cl.Trainer.resume(tmp_path / "run")
    assert again.model.frozen == straight.model.frozen
    again.fit(stripes(), **FIT)
    assert bits(again.model.state_dict()) == bits(straight.model.state_dict())


class Thaw(Callback):
    """Unfreezes the features after the first epoch and freezes the head."""

    def on_epoch_end(self, trainer, logs):
        if trainer.epoch == 1:
            trainer.model.unfreeze("features/*")
            trainer.model.freeze("head")
            self.state = bits(trainer.model.state_dict())


def test_a_callback_changes_what_is_trained():
    """The rest of the run is that of a trainer that starts there."""
    thaw, trainer = Thaw(), cl.Trainer(network(), optimizer=cl.AdamW(0.01, weight_decay=0.1), seed=3)
    trainer.callbacks.append(thaw)
    trainer.model.freeze("features/*")
    before = bits(trainer.model.state_dict())
    trainer.fit(stripes(), **FIT)
    after = bits(trainer.model.state_dict())
    assert {n for n in before if before[n] == thaw.state[n]} == {*CONV, *NORM}
    assert {n for n in after if after[n] == thaw.state[n]} == {"head.weight", "head.bias"}
    assert trainer.optimizer.steps == 8
    assert {key.split(":")[1] for key in trainer.optimizer.state_dict() if ":" in key} == set(
        trainer.model.trainable_parameters()
    )


def test_the_export_is_the_same(tmp_path):
    model, x = network(), stripes(7)[0]
    model.forward(x)
    cl.export_onnx(model, tmp_path / "before.onnx")
    model.freeze("features/*")
    cl.export_onnx(model, tmp_path / "after.onnx")
    assert (tmp_path / "before.onnx").read_bytes() == (tmp_path / "after.onnx").read_bytes()


def test_the_summary_says_so():
    model = network()
    model.freeze("features/*", "head.bias")
    rows = {line.split()[0]: line.split() for line in model.summary().splitlines()}
    assert rows["features/conv"][3:5] == ["40", "frozen"]
    assert rows["head"][3:6] == ["147", "(3", "frozen)"]
    assert rows["middle"][3:5] == ["111", f"{4 * 27 * 16:,}"]
    assert rows["trained"] == ["trained", f"{111 + 144}"]
