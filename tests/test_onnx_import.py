"""Imported networks: what they compute, what their weights are called, and that they train."""

import numpy as np
import pytest
from exports import around, random
from exports import graph as joined_graph
from imports import agreed, bytes_of, weights
from onnx import TensorProto, helper, numpy_helper

import convlayers as cl
from convlayers.errors import ArrayTypeError, ConfigError, OnnxImportError
from convlayers.onnx import available_handlers, handler
from convlayers.registry import layer_class
from convlayers.testing import assert_close

# Every reference architecture at a size that is exported in seconds.
SIZES = {
    "alexnet": {"input_shape": (3, 67, 67), "classes": 7},
    "resnet18": {"input_shape": (3, 64, 64), "classes": 7},
    "resnet50": {"input_shape": (3, 64, 64), "classes": 7},
    "mobilenet_v2": {"input_shape": (3, 64, 64), "classes": 7},
    "squeezenet": {"input_shape": (3, 64, 64), "classes": 7},
    "unet": {"input_shape": (1, 32, 32)},
    "vgg11": {"input_shape": (3, 32, 32), "classes": 7},
    "vgg16": {"input_shape": (3, 32, 32), "classes": 7},
}


def with_statistics(model):
    """BatchNorm as after some training."""
    rng = np.random.default_rng(4)
    for name, array in model.buffers().items():
        array[...] = rng.uniform(0.5, 2, array.shape) if name.endswith("var") else rng.standard_normal(array.shape)
    return model


@pytest.mark.parametrize("name", cl.models.__all__)
def test_every_architecture_comes_back_to_the_bit(name, tmp_path):
    model = with_statistics(getattr(cl.models, name)(**SIZES.get(name, {})))
    cl.export_onnx(model, tmp_path / "m.onnx")
    again = cl.import_onnx(tmp_path / "m.onnx")
    x = random(3, *model.input_shape)
    np.testing.assert_array_equal(again(x), model(x))
    for arrays in ("parameters", "buffers"):
        ours, theirs = getattr(model, arrays)(), getattr(again, arrays)()
        assert list(ours) == list(theirs)
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)


def test_a_graph_with_shared_layers_and_two_of_each_end(tmp_path):
    model = joined_graph()
    cl.export_onnx(model, tmp_path / "m.onnx")
    again = cl.import_onnx(str(tmp_path / "m.onnx"))
    x = [random(2, 3, 5, 5), random(2, 3, 5, 5) + 1]
    for ours, theirs in zip(model(x), again(x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert again.parameters().keys() == model.parameters().keys()
    assert again.input_names == model.input_names
    assert len({id(s.layer) for s in again.steps if s.layer.params}) == 1


def test_labels_and_preprocessing_come_along(tmp_path):
    model = cl.models.digits_cnn()
    model.metadata = {"labels": list("0123456789"), "preprocessing": {"scale": 16}}
    cl.export_onnx(model, tmp_path / "m.onnx")
    assert cl.import_onnx(tmp_path / "m.onnx").metadata == model.metadata


# Shapes that a file computes, and constants


def test_shapes_are_computed_for_every_batch_size():
    nodes = [
        ("Shape", "x", "s"),
        ("Gather", "s zero", "n", {"axis": 0}),
        ("Gather", "s one", "c", {"axis": 0}),
        ("Div", "c two", "half"),
        ("Unsqueeze", "n axis0", "n1"),
        ("Unsqueeze", "half axis0", "h1"),
        ("Concat", "n1 two1 h1 minus", "target", {"axis": 0}),
        ("Reshape", "x target", "a"),
        ("Transpose", "a", "b", {"perm": [0, 2, 1, 3]}),
        ("Reshape", "b s", "y"),
    ]
    constants = {
        "zero": np.array(0),
        "one": np.array(1),
        "two": np.array(2),
        "axis0": np.array([0]),
        "two1": np.array([2]),
        "minus": np.array([-1]),
    }
    model = agreed(bytes_of(nodes, (6, 2, 3), constants), (6, 2, 3), batches=(1, 2, 7))
    assert [type(step.layer).__name__ for step in model.steps] == ["Reshape", "Permute", "Reshape"]


@pytest.mark.parametrize(
    ("shape", "sample"), [((4, 1, 1), (4, 1, 1)), ((1, 4, 1, 1), (4, 1, 1)), ((3,), (3,)), ((2, 3), (2, 3))]
)
def test_a_weight_beside_a_tensor_is_trained_in_its_own_shape(shape, sample):
    nodes = [("Mul", "x scale", "a"), ("Sub", "shift a", "y")]
    model = agreed(bytes_of(nodes, (4, 2, 3), {"scale": weights(*shape), "shift": weights(*shape, seed=1)}), (4, 2, 3))
    assert {name: array.shape for name, array in model.parameters().items()} == {
        "a/scale.value": sample,
        "y/shift.value": sample,
    }


def test_a_number_is_a_setting_and_no_weight():
    nodes = [("Mul", "x half", "a"), ("Div", "a three", "b"), ("Pow", "b two", "c"), ("Add", "three c", "y")]
    constants = {name: np.array(value, np.float32) for name, value in (("half", 0.5), ("three", 3), ("two", 2))}
    model = agreed(bytes_of(nodes, (5,), constants), (5,))
    assert not model.parameters()


def test_a_dense_layer_behind_each_way_to_write_it():
    weight, bias = weights(6, 4), weights(4)
    gemm = bytes_of([("Gemm", "x w b", "y", {"alpha": 0.5, "beta": 2.0})], (6,), {"w": weight, "b": bias})
    model = agreed(gemm, (6,))
    np.testing.assert_array_equal(model.parameters()["y.weight"], weight.T * np.float32(0.5))
    product = bytes_of([("MatMul", "x w", "h"), ("Add", "h b", "y")], (5, 6), {"w": weight, "b": bias})
    assert type(agreed(product, (5, 6)).steps[0].layer) is cl.Dense


@pytest.mark.parametrize(
    ("opset", "nodes", "constants"),
    [
        (12, [("Softmax", "x", "y", {"axis": 1})], {}),
        (13, [("Softmax", "x", "y", {"axis": 1})], {}),
        (9, [("Clip", "x", "y", {"min": -0.5, "max": 0.25})], {}),
        (13, [("Clip", "x lo hi", "y")], {"lo": np.array(-1, np.float32), "hi": np.array(0.25, np.float32)}),
        (9, [("Slice", "x", "y", {"starts": [1, 0], "ends": [9, 2], "axes": [2, 3]})], {}),
        (13, [("Slice", "x s e a t", "y")], {"s": [-1], "e": [-9], "a": [2], "t": [-2]}),
        (9, [("Pad", "x", "y", {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 1.5})], {}),
        (13, [("Pad", "x p", "y", {"mode": "reflect"})], {"p": [0, 0, 1, 1, 0, 0, 2, 0]}),
        (11, [("Unsqueeze", "x", "a", {"axes": [1]}), ("Squeeze", "a", "y", {"axes": [1]})], {}),
        (13, [("Unsqueeze", "x a", "b"), ("Squeeze", "b a", "y")], {"a": [2]}),
        (9, [("Upsample", "x s", "y", {"mode": "nearest"})], {"s": np.array([1, 1, 2, 3], np.float32)}),
        (11, [("Split", "x", "a b", {"axis": 1, "split": [1, 2]}), ("Concat", "b a", "y", {"axis": 1})], {}),
        (13, [("Split", "x s", "a b", {"axis": 1}), ("Concat", "b a", "y", {"axis": 1})], {"s": [2, 1]}),
        (11, [("ReduceSum", "x", "y", {"axes": [1, 3], "keepdims": 0})], {}),
        (13, [("ReduceSum", "x a", "y", {"keepdims": 0})], {"a": [1, 3]}),
        (13, [("ReduceMean", "x", "y", {"axes": [2, 3]})], {}),
        (17, [("LayerNormalization", "x w", "y", {"axis": -2})], {"w": weights(4, 5)}),
    ],
)
def test_operators_that_changed_between_opsets(opset, nodes, constants):
    named = {key: np.array(value) if isinstance(value, list) else value for key, value in constants.items()}
    agreed(bytes_of(nodes, (3, 4, 5), named, opset), (3, 4, 5))


@pytest.mark.parametrize("layer_id", ["adaptive_max_pool1d", "max_pool2d", "mixed_pool2d", "group_norm", "resize", "gelu"])
def test_layers_of_several_operators_come_back(layer_id, tmp_path):
    cls = layer_class(layer_id)
    for config, shape in cls.examples[:3]:
        model = around(cls(**config), shape)
        cl.export_onnx(model, tmp_path / "m.onnx")
        x = random(3, *shape)
        assert_close(cl.import_onnx(tmp_path / "m.onnx")(x), model(x), 200, f"{layer_id} {config}")


# Names


def test_layers_are_named_as_their_weights_or_outputs():
    nodes = [("Conv", "x features.0.weight", "a"), ("Relu", "a", "b"), ("Conv", "b onnx::Conv_7", "c"), ("Relu", "c", "y")]
    constants = {"features.0.weight": weights(4, 2, 3, 3), "onnx::Conv_7": weights(2, 4, 1, 1)}
    model = agreed(bytes_of(nodes, (2, 6, 6), constants), (2, 6, 6))
    assert [step.name for step in model.steps] == ["features_0", "b", "c", "y"]


def test_operators_with_names_keep_what_a_name_can_have():
    node = helper.make_node("Relu", ["x"], ["y"], name="/a/b.0:1/Relu")
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in "xy"]
    proto = helper.make_model(helper.make_graph([node], "g", value[:1], value[1:]))
    assert cl.import_onnx(proto.SerializeToString()).steps[0].name == "a/b_0_1"


# Sizes that the file leaves open


def open_sizes():
    return bytes_of([("Relu", "x", "a"), ("GlobalAveragePool", "a", "y")], ("h", "w", 4))


def test_open_sizes_are_given():
    assert cl.import_onnx(open_sizes(), input_shape=(2, 3, 4)).output_shape == (2, 1, 1)
    assert cl.import_onnx(open_sizes(), input_shape={"x": [2, 3, 4]}).input_shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (None, OnnxImportError, r'input "x" has the shape \(\?, \?, \?, 4\); give input_shape'),
        ((2, 3, 5), ConfigError, r"input_shape \(2, 3, 5\) contradicts"),
        ((3, 4), ConfigError, "contradicts"),
        ({"z": (2, 3, 4)}, ConfigError, "names z; .* has the inputs x"),
        ((2, 0, 4), OnnxImportError, "at least 1"),
        ("hw", OnnxImportError, "its shape"),
    ],
)
def test_open_sizes_given_wrongly(given, error, words):
    with pytest.raises(error, match=words):
        cl.import_onnx(open_sizes(), input_shape=given)


def test_what_is_no_file():
    with pytest.raises(ArrayTypeError, match="a path or the bytes of a file; got int"):
        cl.import_onnx(3)


# Training


def batchnorm_network():
    nodes = [
        ("Conv", "x conv.weight", "a", {"pads": [1, 1, 1, 1]}),
        ("BatchNormalization", "a s b m v", "n", {"momentum": 0.8}),
        ("Relu", "n", "r"),
        ("GlobalAveragePool", "r", "p"),
        ("Flatten", "p", "f"),
        ("Gemm", "f head.weight", "y", {"transB": 1}),
    ]
    vectors = {name: np.abs(weights(8, seed=i)) for i, name in enumerate("sbmv")}
    return bytes_of(nodes, (1, 8, 8), {"conv.weight": weights(8, 1, 3, 3), "head.weight": weights(10, 8), **vectors})


def test_running_statistics_go_on_in_training():
    model = agreed(batchnorm_network(), (1, 8, 8))
    norm = next(step for step in model.steps if type(step.layer) is cl.BatchNorm2d)
    assert norm.layer.momentum == 0.2
    before = norm.layer.buffers["running_mean"].copy()
    model.forward(random(16, 1, 8, 8), training=True)
    assert not np.array_equal(norm.layer.buffers["running_mean"], before)


def test_a_new_head_on_a_frozen_body_trains_and_comes_back(tmp_path):
    model = cl.import_onnx(batchnorm_network())
    tuned = cl.Model(model.input_nodes, cl.Dense(3)(model.node("f"), name="top"), seed=0)
    body = {name: array.copy() for name, array in {**model.parameters(), **model.buffers()}.items()}
    tuned.freeze("[!t]*")
    x = random(96, 1, 8, 8)
    y = x.mean(axis=(1, 2, 3)).argsort().argsort() // 32
    trainer = cl.Trainer(tuned, optimizer=cl.Adam(0.05), seed=0)
    history = trainer.fit((x, y), epochs=12, progress=False)
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    for name, array in {**model.parameters(), **model.buffers()}.items():
        np.testing.assert_array_equal(array, body[name], err_msg=name)
    cl.export_onnx(tuned, tmp_path / "t.onnx")
    again = cl.import_onnx(tmp_path / "t.onnx")
    np.testing.assert_array_equal(again(x), tuned(x))
    cl.export_onnx(again, tmp_path / "u.onnx")
    assert cl.import_onnx(tmp_path / "u.onnx").parameters().keys() == tuned.parameters().keys()


def test_resnet50_is_fine_tuned(tmp_path):
    cl.export_onnx(cl.models.resnet50(input_shape=(3, 32, 32), classes=11), tmp_path / "m.onnx")
    model = cl.import_onnx(tmp_path / "m.onnx")
    features = model.value_names[model.steps[-1].sources[0]]
    tuned = cl.Model(model.input_nodes, cl.Dense(2)(model.node(features), name="new_head"), seed=0)
    x = random(8, 3, 32, 32)
    y = np.arange(8) % 2
    trainer = cl.Trainer(tuned, optimizer=cl.Adam(1e-3), seed=0)  # BatchNorm in training mode, all weights
    losses = trainer.fit((x, y), epochs=6, batch_size=8, progress=False)["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    tuned.freeze("[!n]*")
    before = {name: array.copy() for name, array in tuned.parameters().items()}
    cl.Trainer(tuned, optimizer=cl.Adam(0.01), seed=0).fit((x, y), epochs=1, batch_size=8, progress=False)
    moved = [name for name, array in tuned.parameters().items() if not np.array_equal(array, before[name])]
    assert moved == ["new_head.weight", "new_head.bias"]
    cl.export_onnx(tuned, tmp_path / "t.onnx")
    cl.verify_onnx(tmp_path / "t.onnx")
    np.testing.assert_array_equal(cl.import_onnx(tmp_path / "t.onnx")(x), tuned(x))


# Weights in other files


def test_external_data_is_read_on_request_alone(tmp_path):
    from onnx import load_model_from_string, save

    proto = load_model_from_string(batchnorm_network())
    save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    with pytest.raises(OnnxImportError, match=r"lies in another file, 'm\.bin'; external_data=True reads it"):
        cl.import_onnx(tmp_path / "m.onnx")
    model, within = cl.import_onnx(tmp_path / "m.onnx", external_data=True), cl.import_onnx(batchnorm_network())
    np.testing.assert_array_equal(model(random(2, 1, 8, 8)), within(random(2, 1, 8, 8)))


# Functions


def test_functions_are_written_out():
    node = helper.make_node("Twice", ["x"], ["y"], domain="other")
    body = [helper.make_node("Add", ["a", "a"], ["b"]), helper.make_node("Relu", ["b"], ["c"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("other", 1)]
    function = helper.make_function("other", "Twice", ["a"], ["c"], body, opsets[:1])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in "xy"]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(weights(2), "unused")])
    proto = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)
    model = agreed(proto.SerializeToString(), (4,))
    assert [type(step.layer).__name__ for step in model.steps] == ["Add", "ReLU"]


# Handlers of one's own


def test_a_program_brings_a_handler_for_its_own_operator(monkeypatch):
    from convlayers.onnx.imports import handlers

    monkeypatch.setattr(handlers, "_registered", {k: list(v) for k, v in handlers._registered.items()})

    @handler("Halve", domain="com.example")
    def halve(op):
        return op.layer(cl.MultiplyConstant(0.5), op.tensor(0))

    node = helper.make_node("Halve", ["x"], ["y"], domain="com.example")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in "xy"]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    proto = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), opset_imports=opsets, ir_version=8)
    model = cl.import_onnx(proto.SerializeToString())
    np.testing.assert_array_equal(model(random(2, 4)), random(2, 4) / 2)
    assert available_handlers()["com.example", "Halve"][0].owner == "the running program"

    handler("Relu")(halve)
    with pytest.raises(OnnxImportError, match=r"ai\.onnx/Relu/1 has two owners: convlayers and the running program"):
        cl.import_onnx(bytes_of([("Relu", "x", "y")], (4,)))
    handlers._installed.cache_clear()
