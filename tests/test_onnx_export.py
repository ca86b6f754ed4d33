"""Exports: what is in the file, that it is right, and that nothing appears when it is not."""

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import onnx
import pytest
from exports import around, chain, graph, misuse, random, run

import convlayers as cl
from convlayers.errors import ConfigError, ShapeError
from convlayers.onnx import OnnxModel
from convlayers.onnx.compare import batches_of, lengths, relative_error
from convlayers.onnx.graph import GraphBuilder
from convlayers.onnx.session import newest_opset
from convlayers.registry import layer_class
from convlayers.tolerance import tolerance

OPSETS = (13, 17, newest_opset())
EXAMPLES = [
    pytest.param(layer_class(layer_id), config, shape, id=f"{layer_id}-{number}")
    for layer_id, owner in cl.available_layers().items()
    if owner.startswith("convlayers ")
    for number, (config, shape) in enumerate(layer_class(layer_id).examples)
]


def written_as(model, opset):
    """What the file of an opset depends on: the operators, with the version of each that the opset means."""
    nodes = GraphBuilder(model, opset).nodes
    versions = [onnx.defs.get_schema(node.op_type, opset, node.domain).since_version for node in nodes]
    return [(node.op_type, version, repr(node.attributes)) for node, version in zip(nodes, versions, strict=True)]


@pytest.mark.parametrize(("layer", "config", "shape"), EXAMPLES)
def test_every_layer_exports_at_every_opset(layer, config, shape, tmp_path):
    """Opsets that mean the same operators in the same versions are one: the first of them is exported, and the newest."""
    model, before = around(layer(**config), shape), None
    for opset in range(13, newest_opset() + 1):
        operators = written_as(model, opset)
        if operators == before and opset < newest_opset():
            continue
        before = operators
        report = cl.export_onnx(model, tmp_path / "m.onnx", opset)
        written = onnx.load(tmp_path / "m.onnx")
        assert [entry.version for entry in written.opset_import] == [opset] == [report.opset]
        assert written.ir_version == onnx.helper.find_min_ir_version_for(written.opset_import)


def windows(rng, **more):
    """A random window; its padding may be wider than the kernel where dilation allows it."""
    kernel, stride, dilation = ([int(v) for v in rng.integers(1, top, 2)] for top in (5, 4, 4))
    padding = "same" if rng.random() < 0.3 else [[int(v) for v in rng.integers(0, 5, 2)] for _ in range(2)]
    return {"kernel_size": kernel, "stride": stride, "dilation": dilation, "padding": padding, **more}


@pytest.mark.parametrize("kind", ["conv2d", "max_pool2d", "avg_pool2d"])
def test_random_windows(kind, tmp_path):
    rng, done = np.random.default_rng(7), 0
    while done < 40:
        config = windows(rng)
        if kind == "conv2d":
            config |= {"out_channels": 4, "groups": int(rng.integers(1, 3)), "bias": bool(rng.random() < 0.5)}
        else:
            config |= {"ceil_mode": bool(rng.random() < 0.5)}
        if kind == "avg_pool2d":
            del config["dilation"]
            config |= {"count_include_pad": bool(rng.random() < 0.5)}
        shape = (2, *(int(v) for v in rng.integers(3, 14, 2)))
        try:
            model = around(cl.create_layer(kind, **config), shape)
        except ShapeError:
            continue
        report = cl.export_onnx(model, tmp_path / "m.onnx")
        x = rng.standard_normal((3, *shape)).astype(np.float32)
        error = relative_error(OnnxModel(tmp_path / "m.onnx").predict(x), model(x))
        assert error <= report.tolerance, config
        done += 1


MODELS = [
    (cl.models.lenet5, (1, 28, 28)),
    (cl.models.digits_cnn, (1, 8, 8)),
    (cl.models.mnist_cnn, (1, 8, 8)),
    (cl.models.vgg_small, (3, 8, 8)),
    (cl.models.resnet20, (3, 8, 8)),
    (cl.models.mobilenet_small, (3, 8, 8)),
]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(("make", "shape"), MODELS, ids=[make.__name__ for make, _ in MODELS])
def test_reference_models(make, shape, opset, tmp_path):
    model = make(shape, seed=4)
    model.forward(random(3, *shape))  # running statistics that are not those of a fresh model
    report = cl.export_onnx(model, tmp_path / "m.onnx", opset)
    x = random(5, *model.input_shape)
    (y,) = run(tmp_path / "m.onnx", x)
    assert relative_error(y, model(x)) < tolerance(np.float32, max(lengths(model)))
    assert set(report.layers) == {name for name, _ in model.layers()}
    assert max(report.layers.values()) <= report.tolerance
    assert report.errors["output"] <= report.tolerance == tolerance(np.float32, max(lengths(model)))
    assert report.parameters == sum(array.size for array in model.state_dict().values())
    assert report.bytes == (tmp_path / "m.onnx").stat().st_size
    assert "batches of 1, 2 and 7" in str(report)
    assert str(tmp_path) in str(report)


def test_graph_with_a_join_a_shared_layer_and_several_ends(tmp_path):
    model = graph()
    report = cl.export_onnx(model, tmp_path / "m.onnx")
    written = onnx.load(tmp_path / "m.onnx").graph
    assert [i.name for i in written.input] == ["input_1", "input_2"]
    assert [o.name for o in written.output] == ["output_1", "output_2"]
    assert sorted(i.name for i in written.initializer) == ["conv.bias", "conv.weight"]
    assert set(report.errors) == {"output_1", "output_2"}
    x = [random(5, 3, 5, 5), random(5, 3, 5, 5)[::-1].copy()]
    for found, expected in zip(run(tmp_path / "m.onnx", *x), model(x), strict=True):
        assert relative_error(found, expected) < report.tolerance
    assert cl.verify_onnx(tmp_path / "m.onnx").errors.keys() == report.errors.keys()


def test_names_come_from_the_model(tmp_path):
    cl.export_onnx(chain(), tmp_path / "m.onnx")
    written = onnx.load(tmp_path / "m.onnx").graph
    names = [node.name for node in written.node]
    assert names == ["0/Conv", "1/Relu", "middle/Conv", "3/MaxPool", "4/Flatten", "5/Gemm"]
    assert [node.output[0] for node in written.node] == [*names[:-1], "output"]
    assert [i.name for i in written.initializer] == list(chain().parameters())
    assert [v.name for v in written.value_info] == names[:-1]
    sizes = [d.dim_param or d.dim_value for d in written.value_info[3].type.tensor_type.shape.dim]
    assert sizes == ["N", 4, 3, 3]


def test_batch_axis_is_symbolic(tmp_path):
    model = chain()
    cl.export_onnx(model, tmp_path / "m.onnx")
    written = onnx.load(tmp_path / "m.onnx").graph
    for value in [*written.input, *written.output]:
        assert value.type.tensor_type.shape.dim[0].dim_param == "N"
    for batch in (1, 5, 64):
        assert run(tmp_path / "m.onnx", random(batch, 2, 6, 6))[0].shape == (batch, 3)


def test_one_value_as_two_outputs_and_an_input_as_an_output(tmp_path):
    x = cl.Input((4,))
    y = cl.Dense(2)(x)
    model = cl.Model(x, [y, y, x])
    cl.export_onnx(model, tmp_path / "m.onnx")
    for found, expected in zip(run(tmp_path / "m.onnx", random(5, 4)), model(random(5, 4)), strict=True):
        assert relative_error(found, expected) < tolerance(np.float32, 4)


def test_dropout_is_the_identity(tmp_path):
    model = cl.Sequential([cl.Dropout(0.9)], input_shape=(50,))
    cl.export_onnx(model, tmp_path / "m.onnx")
    np.testing.assert_array_equal(run(tmp_path / "m.onnx", random(5, 50))[0], random(5, 50))
    assert [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node] == ["Identity"]


def test_a_model_in_the_middle_of_training_is_exported_for_inference(tmp_path):
    layers = [cl.Conv2d(4, 3), cl.BatchNorm2d(), cl.ReLU(), cl.Dropout2d(0.5), cl.Flatten(), cl.Dropout(0.5), cl.Dense(3)]
    model = cl.Sequential(layers, input_shape=(1, 6, 6), seed=1)
    trainer = cl.Trainer(model, "mse", seed=1)
    trainer.fit((random(32, 1, 6, 6) + 1, random(32, 3)), 2, 8, progress=False)
    _, tape = model.forward(random(8, 1, 6, 6) + 1)
    cl.export_onnx(model, tmp_path / "m.onnx")
    x = random(5, 1, 6, 6)
    (y,) = run(tmp_path / "m.onnx", x)
    assert relative_error(y, model(x)) < 1e-5
    assert relative_error(y, model.forward(x, training=True)[0]) > 0.1
    nodes = onnx.load(tmp_path / "m.onnx").graph.node
    assert [node.op_type for node in nodes] == ["Conv", "BatchNormalization", "Relu", "Identity", "Flatten", "Identity", "Gemm"]
    assert "training_mode" not in [attribute.name for node in nodes for attribute in node.attribute]
    model.backward(np.ones((8, 3), np.float32), tape)  # training goes on


def test_layers_named_as_the_file_names_its_ends(tmp_path):
    layers = [("input", cl.ReLU()), ("output", cl.ReLU()), ("output_1", cl.Dense(3)), ("a/Relu", cl.ReLU()), ("a", cl.ReLU())]
    cl.export_onnx(cl.Sequential(layers, input_shape=(4,)), tmp_path / "m.onnx")
    assert run(tmp_path / "m.onnx", random(5, 4))[0].shape == (5, 3)


def test_model_without_layers(tmp_path):
    cl.export_onnx(cl.Sequential([], input_shape=(4,)), tmp_path / "m.onnx")
    np.testing.assert_array_equal(run(tmp_path / "m.onnx", random(5, 4))[0], random(5, 4))


def test_metadata(tmp_path):
    model = chain()
    model.metadata = {"labels": ["ä", "b", "c"], "preprocessing": {"scale": 255}, "other": 1}
    cl.export_onnx(model, tmp_path / "m.onnx")
    written = onnx.load(tmp_path / "m.onnx")
    properties = {entry.key: entry.value for entry in written.metadata_props}
    assert json.loads(properties["labels"]) == ["ä", "b", "c"]
    assert json.loads(properties["preprocessing"]) == {"scale": 255}
    assert properties["convlayers_version"] == written.producer_version == cl.__version__
    assert written.producer_name == "convlayers"
    assert "other" not in properties
    cl.export_onnx(model, tmp_path / "m.onnx", labels=(1, 2, 3), preprocessing=[])
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert (properties["labels"], properties["preprocessing"]) == ("[1, 2, 3]", "[]")


@pytest.mark.parametrize("bad", [{"labels": ["a"]}, {"labels": {1, 2}}, {"preprocessing": {"mean": float("nan")}}])
def test_metadata_that_does_not_fit(bad, tmp_path):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        cl.export_onnx(chain(), tmp_path / "m.onnx", **bad)
    assert not list(tmp_path.iterdir())


def test_weights_are_not_copied_on_their_way_into_the_file(tmp_path):
    model = cl.Sequential([cl.Dense(1000)], input_shape=(4000,))
    cl.export_onnx(chain(), tmp_path / "m.onnx")  # imports
    tracemalloc.start()
    try:
        cl.export_onnx(model, tmp_path / "m.onnx", certificate=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    weight = model.parameters()["0.weight"]
    assert peak < weight.nbytes / 4
    (stored,) = [t for t in onnx.load(tmp_path / "m.onnx").graph.initializer if t.name == "0.weight"]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored), weight)


def test_same_bits_for_any_thread_count(tmp_path):
    threads, files = cl.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            cl.set_num_threads(count)
            cl.export_onnx(cl.models.digits_cnn(), tmp_path / "m.onnx")
            files.append((tmp_path / "m.onnx").read_bytes())
    finally:
        cl.set_num_threads(threads)
    assert files[0] == files[1] == files[2]


def test_the_graph_needs_no_onnx():
    code = (
        "import sys, convlayers as cl\n"
        "from convlayers.onnx.graph import GraphBuilder\n"
        "GraphBuilder(cl.models.lenet5(), 17)\n"
        "assert not {'onnx', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Layers of plug-ins


def split(self, graph, x):
    low, high = graph.op("Split", x, np.array([1, 3], np.int64), axis=1, outputs=2)
    joined = graph.op("Concat", low, high, axis=np.int64(1))
    low_bound = np.array(-1e9, np.dtype(">f8"))
    clipped = graph.op("Clip", joined, low_bound, None, unused=None)
    two = graph.op("Constant", value=np.array(2.0))
    return graph.op("Mul", graph.op("Mul", clipped, two), np.ones((1, 4, 1, 1)))


def test_what_a_plugin_may_do(tmp_path):
    model = chain(misuse(split))
    cl.export_onnx(model, tmp_path / "m.onnx")
    written = onnx.load(tmp_path / "m.onnx").graph
    assert {tuple(node.output) for node in written.node if node.op_type == "Split"} == {("middle/Split", "middle/Split:1")}
    assert [list(node.input) for node in written.node if node.op_type == "Clip"] == [["middle/Concat", "middle/constant_1"]]
    types = {i.name: i.data_type for i in written.initializer}
    assert types["middle/constant"] == onnx.TensorProto.INT64
    assert types["middle/constant_1"] == types["middle/constant_2"] == onnx.TensorProto.FLOAT


def test_an_array_used_twice_is_stored_once_and_an_input_may_be_handed_on(tmp_path):
    table = np.full((1, 4, 1, 1), 0.5)

    def write(self, graph, x):
        halves = [graph.op("Mul", x, table), graph.op("Mul", x, table)]
        return graph.op("Mul", graph.op("Add", *halves), np.array(2.0))

    class HandedOn(cl.Dropout):
        def to_onnx(self, graph, *inputs):
            return inputs[0]

    x = cl.Input((4, 3, 3))
    cl.export_onnx(cl.Model(x, HandedOn()(misuse(write)(x))), tmp_path / "m.onnx")
    assert [i.name for i in onnx.load(tmp_path / "m.onnx").graph.initializer] == ["plugin/constant", "plugin/constant_1"]


def test_large_networks_are_run_on_fewer_images():
    assert batches_of(cl.models.lenet5()) == (1, 2, 7)
    assert batches_of(cl.models.resnet18()) == (1, 2, 3)
