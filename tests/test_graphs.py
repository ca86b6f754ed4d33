"""Graphs: what is refused and why, several inputs and outputs, models within models, building on a model."""

import json
import re

import numpy as np
import onnx
import pytest

import convlayers as cl
from convlayers.errors import ArrayTypeError, ConfigError, FileFormatError, ShapeError
from convlayers.model.config import from_config
from convlayers.onnx import OnnxModel
from convlayers.testing import assert_close, assert_gradient


def random(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def encoder(seed=0):
    layers = [("conv", cl.Conv2d(4, 3, padding=1)), ("norm", cl.BatchNorm2d()), ("act", cl.ReLU()), ("flat", cl.Flatten())]
    return cl.Sequential(layers, input_shape=(2, 4, 4), seed=seed)


def siamese(seed=0):
    """One encoder for two images; two outputs, one of which both images reach and that adds a value to itself."""
    left, right = cl.Input((2, 4, 4), name="left"), cl.Input((2, 4, 4), name="right")
    shared = encoder(1)
    a, b = shared(left, name="a"), shared(right, name="b")
    both = cl.Add()(a, b, a)
    return cl.Model([left, right], [cl.Dense(3)(both, name="classes"), cl.Tanh()(a)], seed=seed)


# What is refused


def test_a_cycle_is_named():
    x = cl.Input((3,), name="x")
    first = cl.ReLU()(x, name="first")
    second = cl.Add()(first, x, name="second")
    last = cl.Tanh()(second, name="last")
    first.parents = (second,)
    rule = r'the graph has a cycle: Add "second" \(3,\) reads ReLU "first" \(3,\) reads Add "second" \(3,\)$'
    with pytest.raises(ShapeError, match=rule):
        cl.Model(x, last)
    first.parents = (first,)
    with pytest.raises(ShapeError, match=r'cycle: ReLU "first" \(3,\) reads ReLU "first" \(3,\)$'):
        cl.Model(x, last)


def test_a_value_that_many_read_is_no_cycle():
    x = node = cl.Input((3,))
    for _ in range(60):  # a walk over all paths would take 2^60 steps
        node = cl.Add()(node, node)
    assert len(cl.Model(x, node).steps) == 60


@pytest.mark.parametrize(
    ("reads", "message"),
    [
        ([2], 'layer 1 "tanh" reads its own output: the graph has a cycle'),
        ([3], 'layer 1 "tanh" reads the output of "last", which comes later: the graph has a cycle'),
        ([4], 'layer 1 "tanh" reads the values (4,); there are 2 before it'),
        ([-1], 'layer 1 "tanh" reads the values (-1,); there are 2 before it'),
        ([True], 'layer 1 "tanh" reads the values (True,)'),
        ([], 'layer 1 "tanh" reads the values ()'),
        ([0], 'no output depends on "relu"'),
        ([0, 1], 'Tanh "tanh": takes one input; got 2; it reads "input" (3,), "relu" (3,)'),
    ],
)
def test_configurations_with_broken_edges(reads, message):
    x = cl.Input((3,))
    config = cl.Model(x, cl.ReLU()(cl.Tanh()(cl.ReLU()(x)), name="last")).to_config()
    config["layers"][1]["inputs"] = reads
    with pytest.raises(cl.ConvlayersError, match=re.escape(message)):
        cl.Model.from_config(config)


def test_configurations_with_broken_names():
    config = siamese().to_config()
    for change, message in (
        ({"input_names": ["left", "left"]}, 'two layers have the name "left"'),
        ({"input_names": ["left", "classes"]}, 'two layers have the name "classes"'),
        ({"input_names": ["left"]}, "not a model's configuration"),
        ({"input_names": ["left", 5]}, "a layer's name is letters"),
        ({"frozen": ["a/conv.wait", "x"]}, "frozen are a/conv.wait, x, which the model has not"),
        ({"frozen": 3}, "not a model's configuration"),
        ({"outputs": [0]}, 'no output depends on "classes"'),
    ):
        with pytest.raises(cl.ConvlayersError, match=re.escape(message)):
            cl.Model.from_config(config | change)


def test_inputs_and_outputs_that_do_not_meet():
    x, other = cl.Input((3,), name="x"), cl.Input((4,), name="other")
    y = cl.ReLU()(x, name="bend")
    with pytest.raises(
        ShapeError, match=r'^no output depends on the Input "other" \(4,\); leave it out of the model\'s inputs$'
    ):
        cl.Model([x, other], y)
    rule = r'^the graph reads an Input "x" of shape \(3,\) .* the model\'s inputs; it is what ReLU "bend" \(3,\) reads$'
    with pytest.raises(ShapeError, match=rule):
        cl.Model(other, [other, y])
    with pytest.raises(ShapeError, match=r'Input "x" of shape \(3,\) that is not among the model\'s inputs$'):
        cl.Model(other, [other, x])
    with pytest.raises(ShapeError, match=r'a cl\.Input, not a layer\'s output; got ReLU "bend" \(3,\)$'):
        cl.Model([x, y], cl.Tanh()(y))
    with pytest.raises(ShapeError, match=r'^Input "x" \(3,\) is listed twice among the model\'s inputs$'):
        cl.Model([x, x], y)


def test_an_input_can_be_an_output():
    x, y = cl.Input((3,)), cl.Input((3,))
    model = cl.Model([x, y], [x, cl.Add()(x, y)])
    a, b = random(2, 3), random(2, 3, seed=1)
    outputs, tape = model.forward([a, b])
    np.testing.assert_array_equal(outputs[0], a)
    da, db = model.backward([a, b], tape)
    np.testing.assert_array_equal(da, a + b)
    np.testing.assert_array_equal(db, b)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: cl.ReLU()(), ShapeError, "ReLU: call a layer on the nodes it follows, as in Conv2d(8, 3)(x)"),
        (lambda x: cl.ReLU()(np.ones((2, 3))), ArrayTypeError, "ReLU: call a layer .*; got an array of shape (2, 3)"),
        (lambda x: cl.ReLU()(cl.Tanh), ArrayTypeError, "ReLU: .* got the class Tanh"),
        (lambda x: cl.ReLU()(cl.Tanh()), ArrayTypeError, "ReLU: .* got Tanh(), a layer that is called on no node yet"),
        (lambda x: cl.Add()([x, x]), ArrayTypeError, "Add: .*; got a list; give the nodes one by one, as in Add()(a, b)"),
        (lambda x: cl.ReLU()(None, name="n"), ArrayTypeError, 'ReLU "n": .*; got None'),
        (lambda x: cl.ReLU(x), ArrayTypeError, "ReLU is a class; make a layer and call that on the node: ReLU(...)(x)"),
        (lambda x: cl.Conv2d(4, kernel_size=x), ArrayTypeError, "Conv2d is a class"),
        (lambda x: cl.Add()(x, cl.Dense(4)(x, name="fc"), name="sum"), ShapeError,
         'Add "sum": takes inputs along each axis, counted from the last, of one size or of size 1; got (3,), (4,); '
         'it reads Input "x" (3,), Dense "fc" (4,)'),
        (lambda x: cl.Conv2d(2, 3)(x), ShapeError,
         'Conv2d: takes images .* got a sample of shape (3,); it reads Input "x" (3,)'),
        (lambda x: cl.Dense(2)(x, x), ShapeError, 'Dense: takes one input; got 2; it reads Input "x" (3,), Input "x" (3,)'),
    ],
)  # fmt: skip
def test_calls_that_make_no_node(call, error, message):
    pattern = "^" + re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(error, match=pattern):
        call(cl.Input((3,), name="x"))


def test_a_shared_layer_fits_at_every_place():
    x, wide = cl.Input((3,), name="x"), cl.Input((5,), name="wide")
    dense = cl.Dense(3)
    first, second = dense(x, name="first"), dense(wide, name="second")
    rule = r'^Dense "second": its weight \(3, 3\) is shared, and would be \(3, 5\) here; it reads "wide" \(5,\)$'
    with pytest.raises(ShapeError, match=rule):
        cl.Model([x, wide], cl.Add()(first, second))
    # The layer is built by now, so the call itself can tell.
    with pytest.raises(ShapeError, match=r'^Dense: its weight .* would be \(3, 5\) here; it reads Input "wide" \(5,\)$'):
        dense(wide)


def test_names_stand_once():
    x, y = cl.Input((3,), name="a"), cl.Input((3,), name="a")
    with pytest.raises(ConfigError, match='two layers have the name "a"'):
        cl.Model([x, y], cl.Add()(x, y))
    with pytest.raises(ConfigError, match='two layers have the name "a"'):
        cl.Model(x, cl.ReLU()(x, name="a"))
    with pytest.raises(ConfigError, match=r"a layer's name is letters, digits, _, - and /; got 'a\.b'"):
        cl.Model(z := cl.Input((3,), name="a.b"), cl.ReLU()(z))
    free = cl.Input((3,))
    assert cl.Model(free, cl.ReLU()(free, name="input")).input_names == ["input_1"]


# Several inputs and outputs


def test_inputs_as_a_list_a_tuple_or_by_name():
    model, a, b = siamese(), random(5, 2, 4, 4), random(5, 2, 4, 4, seed=1)
    assert model.input_names == ["left", "right"]
    expected = model([a, b])
    for given in ((a, b), {"right": b, "left": a}):
        for found, wanted in zip(model(given), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    with pytest.raises(ArrayTypeError, match="the model takes 2 inputs, called left, right; got left, wrong"):
        model({"left": a, "wrong": b})
    with pytest.raises(ArrayTypeError, match="the model takes 1 input, called input; got none"):
        encoder()({})
    np.testing.assert_array_equal(encoder()({"input": a}), encoder()(a))


def test_gradients_of_a_model_with_a_model_at_two_places():
    model = siamese()
    for _, layer in model.layers():
        for arrays in (layer.params, layer.grads):
            arrays.update({key: value.astype(np.float64) for key, value in arrays.items()})
    rng = np.random.default_rng(2)
    x = [random(3, 2, 4, 4, seed=s, dtype=np.float64) for s in (1, 2)]
    y, tape = model.forward(x, training=False)
    dy = [rng.standard_normal(o.shape) for o in y]
    dx = model.backward(dy, tape)

    def value(inputs):
        return sum(float((o * d).sum()) for o, d in zip(model.forward(inputs, training=False)[0], dy, strict=True))

    assert_gradient(lambda v: value([v, x[1]]), x[0], dx[0], rng, "left")
    assert_gradient(lambda v: value([x[0], v]), x[1], dx[1], rng, "right")
    conv = model.steps[0].layer
    weight = conv.params["weight"]

    def of_weight(moved):
        conv.params["weight"] = moved
        try:
            return value(x)
        finally:
            conv.params["weight"] = weight

    assert_gradient(of_weight, weight, conv.grads["weight"], rng, "the shared weight")


def joint_loss(outputs, targets):
    """Cross-entropy of the first output and half the mean square of the second."""
    labels, levels = targets
    value, gradient = cl.functional.cross_entropy(outputs[0], labels)
    difference = outputs[1] - levels
    return float(value) + 0.5 * float((difference**2).mean()), [gradient, difference / difference.size]


def hits(outputs, targets):
    return outputs[0].argmax(axis=1) == targets[0]


def test_training_with_several_inputs_and_outputs(tmp_path):
    x = {"left": random(30, 2, 4, 4), "right": random(30, 2, 4, 4, seed=1)}
    y = [np.arange(30) % 3, random(30, 64, seed=2) / 4]
    states = []
    for data in ((x, y), ([x["left"], x["right"]], tuple(y))):
        trainer = cl.Trainer(siamese(), loss=joint_loss, metrics=[hits], optimizer=cl.Adam(0.01))
        history = trainer.fit(data, epochs=12, batch_size=8, validation=data, progress=False)
        states.append(trainer.model.state_dict())
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert {key: value.tobytes() for key, value in states[0].items()} == {k: v.tobytes() for k, v in states[1].items()}
    scores = trainer.evaluate((x, y), batch_size=7)
    outputs = trainer.predict(x, batch_size=7)
    assert [o.shape for o in outputs] == [(30, 3), (30, 64)]
    assert scores["loss"] == pytest.approx(joint_loss(outputs, y)[0], rel=1e-5)
    assert scores["hits"] == np.mean(hits(outputs, y)) == history["val_hits"][-1]
    trainer.save(tmp_path / "run")
    again = cl.Trainer.resume(tmp_path / "run", loss=joint_loss, metrics=[hits])
    assert again.predict(x)[0].tobytes() == trainer.predict(x)[0].tobytes()


def test_targets_that_do_not_fit_the_outputs():
    x = [random(4, 2, 4, 4), random(4, 2, 4, 4)]
    trainer = cl.Trainer(siamese(), loss=joint_loss)
    with pytest.raises(ArrayTypeError, match=r"fit: y is an array, or a list of 2 arrays, one for each output; got 3"):
        trainer.fit((x, [np.ones(4)] * 3), progress=False)
    with pytest.raises(cl.ConvlayersError, match=r"x has 4 samples and y\[1\] has 3; they part at index 3"):
        trainer.fit((x, [np.ones(4), np.ones(3)]), progress=False)
    with pytest.raises(ArrayTypeError, match=r"x is a list of 2 arrays, one for each input, called left, right; got up"):
        trainer.predict({"up": x[0]})


def test_configuration_and_file_keep_all_of_a_graph(tmp_path):
    model = siamese(4)
    model.freeze("b/norm")
    config = json.loads(json.dumps(model.to_config()))
    again = cl.Model.from_config(config)
    assert again.to_config() == config
    assert again.value_names == model.value_names
    assert again.steps[4].layer is again.steps[0].layer
    model.save(tmp_path / "m")
    loaded = cl.load(tmp_path / "m")
    assert loaded.to_config() == config
    x = [random(3, 2, 4, 4), random(3, 2, 4, 4, seed=1)]
    for found, wanted in zip(loaded(x), model(x), strict=True):
        assert found.tobytes() == wanted.tobytes()


def test_configurations_of_before_have_neither_names_nor_frozen_layers():
    config = siamese().to_config()
    del config["input_names"], config["frozen"]
    model = cl.Model.from_config(config)
    assert (model.input_names, model.frozen) == (["input_1", "input_2"], frozenset())


def test_a_configuration_that_shares_a_layer_at_another_size():
    """What a shared layer would hold at its second place is bounded by the file as well."""
    x, dense = cl.Input((4,)), cl.Dense(4)
    config = cl.Model(x, dense(dense(x))).to_config()
    config["layers"][0]["config"]["out_features"] = 1000
    with pytest.raises(FileFormatError, match=r'^Dense "dense_1": the configuration asks for weights of shape \(1000, 1000\)'):
        from_config(config, 10_000)
    with pytest.raises(
        ShapeError, match=r'^Dense "dense_1": its weight \(1000, 4\) is shared, and would be \(1000, 1000\) here'
    ):
        from_config(config)


def test_onnx_keeps_names_and_shares_weights(tmp_path):
    model = siamese()
    path = tmp_path / "m.onnx"
    report = cl.export_onnx(model, path)
    graph = onnx.load(path).graph
    assert [value.name for value in graph.input] == ["left", "right"]
    assert [value.name for value in graph.output] == ["output_1", "output_2"]
    assert sorted(i.name for i in graph.initializer) == sorted(model.state_dict())
    x = {"left": random(3, 2, 4, 4), "right": random(3, 2, 4, 4, seed=1)}
    for given in (x, [x["left"], x["right"]]):
        for found, wanted in zip(OnnxModel(path).predict(given), model(x), strict=True):
            assert_close(found, wanted, 200, "onnxruntime")
    assert report.parameters == sum(array.size for array in model.state_dict().values())


def test_an_input_named_as_outputs_are(tmp_path):
    x = cl.Input((3,), name="output")
    cl.export_onnx(cl.Model(x, cl.ReLU()(x)), tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert ([v.name for v in graph.input], [v.name for v in graph.output]) == (["output"], ["output_1"])


# Models within models, and on models


def test_a_model_on_nodes_is_its_layers():
    shared, x = encoder(), cl.Input((2, 4, 4))
    model = cl.Model(x, shared(x, name="left"))
    assert model.value_names == ["input", "left/conv", "left/norm", "left/act", "left/flat"]
    image = random(3, 2, 4, 4)
    assert model(image).tobytes() == shared(image).tobytes()
    for key, array in shared.parameters().items():
        assert model.parameters()[f"left/{key}"] is array
    twice = cl.Model([a := cl.Input((2, 4, 4)), b := cl.Input((2, 4, 4))], cl.Add()(shared(a), shared(b)))
    assert [step.name for step in twice.steps[:4]] == ["conv", "norm", "act", "flat"]
    assert [step.name for step in twice.steps[4:8]] == ["conv_1", "norm_1", "act_1", "flat_1"]
    assert list(twice.parameters()) == list(shared.parameters())
    assert "as conv" in twice.summary()


def test_a_model_of_several_values_on_nodes():
    inner, a, b = siamese(), cl.Input((2, 4, 4)), cl.Input((2, 4, 4))
    classes, bent = inner({"right": a, "left": b}, name="inner")
    assert (classes.shape, bent.shape) == ((3,), (64,))
    model = cl.Model([a, b], [bent, classes])
    x = [random(2, 2, 4, 4), random(2, 2, 4, 4, seed=1)]
    for found, wanted in zip(model(x), reversed(inner(x[::-1])), strict=True):
        assert found.tobytes() == wanted.tobytes()
    with pytest.raises(ArrayTypeError, match="the model takes 2 inputs; got 1"):
        inner(a)
    with pytest.raises(ArrayTypeError, match="the model's input must be a node or several"):
        inner([a, x[0]])
    with pytest.raises(ConfigError, match=r"a layer's name is letters, digits, _, - and /; got 'in\.ner'"):
        inner([a, b], name="in.ner")


def test_a_model_on_nodes_of_another_size():
    conv = cl.Sequential([cl.Conv2d(2, 3), cl.ReLU()], input_shape=(1, 8, 8))
    large = cl.Input((1, 9, 7))
    assert conv(large).shape == (2, 7, 5)
    with pytest.raises(
        ShapeError, match=r'^Conv2d "up/0": its weight \(2, 1, 3, 3\) is shared, and would be \(2, 3, 3, 3\) here'
    ):
        conv(cl.Input((3, 8, 8)), name="up")


def bases(tmp_path):
    """The encoder as it was made, as a graph, from its configuration, and from its file."""
    chain = encoder()
    x = cl.Input((2, 4, 4))
    graph = cl.Model(x, chain(x))
    graph.save(tmp_path / "graph")
    chain.save(tmp_path / "chain")
    return [chain, graph, cl.load(tmp_path / "graph"), cl.load(tmp_path / "chain")]


def test_a_new_head_on_a_model(tmp_path):
    image = random(3, 2, 4, 4)
    for base in bases(tmp_path):
        features = base.node("act")
        assert features.shape == (4, 4, 4)
        model = cl.Model(base.input_nodes, cl.Dense(5)(cl.Flatten()(features)), seed=3)
        assert list(model.parameters()) == [
            "conv.weight",
            "conv.bias",
            "norm.weight",
            "norm.bias",
            "dense.weight",
            "dense.bias",
        ]
        for key, array in base.parameters().items():
            assert model.parameters()[key] is array
        kept = cl.Model(base.input_nodes, base.node("flat"))
        assert kept(image).tobytes() == base(image).tobytes()
        assert base.node("input") is base.input_nodes[0]
        with pytest.raises(ConfigError, match="the model has no layer 'fc'; there are input, conv, norm, act, flat"):
            base.node("fc")


def test_kept_layers_keep_their_names():
    """A layer made before them does not take their numbers."""
    x = cl.Input((2, 4, 4))
    base = cl.Model(x, cl.Conv2d(2, 1)(cl.ReLU()(cl.Conv2d(2, 1)(x))))
    kept = base.node("conv2d")
    model = cl.Model(x, cl.Add()(cl.Conv2d(2, 1)(x), cl.ReLU()(kept)))
    assert model.node("conv2d") is kept
    assert [step.name for step in model.steps] == ["conv2d_1", "conv2d", "relu", "add"]


def block(x, filters):
    return cl.ReLU()(cl.Conv2d(filters, 3, padding=1)(x))


def test_blocks_are_functions():
    x = cl.Input((1, 4, 4))
    model = cl.Model(x, block(block(x, 2), 3))
    assert [step.name for step in model.steps] == ["conv2d", "relu", "conv2d_1", "relu_1"]
    assert model.output_shape == (3, 4, 4)
