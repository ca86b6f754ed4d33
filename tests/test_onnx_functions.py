"""Layers that write themselves as ONNX local functions."""

import json

import numpy as np
import onnx
import pytest
from exports import chain, random, run

import convlayers as cl
from convlayers import registry
from convlayers.errors import ExportError, ExportMismatchError
from convlayers.onnx.compare import relative_error
from convlayers.onnx.functions import DOMAIN, Described, describe, described
from convlayers.onnx.session import newest_opset


class Gated(cl.Layer):
    """y = x sigmoid(slope x) + shift, a parameter and a buffer a channel."""

    def __init__(self, slope=1.0):
        self.slope = slope

    def build(self, input_shape, rng):
        self.params["slope"] = np.full((input_shape[0], *(1,) * (len(input_shape) - 1)), self.slope, np.float32)
        self.buffers["shift"] = np.full(self.params["slope"].shape, 0.25, np.float32)
        return input_shape

    def forward(self, x, *, training):
        return x / (1 + np.exp(-self.params["slope"] * x)) + self.buffers["shift"].astype(x.dtype), None

    def to_onnx(self, graph, *inputs):
        return graph.function(self, inputs, self._operators)

    def _operators(self, graph, x):
        gate = graph.op("Sigmoid", graph.op("Mul", self.params["slope"], x))
        half = graph.op("Mul", graph.op("Mul", x, gate), np.array(0.5))
        return graph.op("Add", graph.op("Mul", half, np.array(2.0)), self.buffers["shift"])


class Doubling(cl.Layer):
    """A join: y = 2 (a + b)."""

    joins = True

    def build(self, input_shape, rng):
        return input_shape[0]

    def forward(self, x, *, training):
        return (x[0] + x[1]) * 2, None

    def to_onnx(self, graph, *inputs):
        return graph.function(self, inputs, lambda graph, a, b: graph.op("Mul", graph.op("Add", a, b), np.array(2.0)))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {"gated": Gated, "doubling": Doubling})


def export(model, tmp_path, opset=17, **more):
    cl.export_onnx(model, tmp_path / "m.onnx", opset, **more)
    x = [random(5, *shape) for shape in model.input_shapes]
    y = model(x if len(x) > 1 else x[0])
    assert relative_error(run(tmp_path / "m.onnx", *x)[0], y) < 1e-5
    cl.verify_onnx(tmp_path / "m.onnx")
    return onnx.load(tmp_path / "m.onnx")


@pytest.mark.parametrize("opset", range(13, newest_opset() + 1))
def test_a_layer_as_a_function(opset, tmp_path):
    model = chain(Gated(0.5))
    written = export(model, tmp_path, opset)
    onnx.checker.check_model(written, full_check=True)
    (function,) = written.functions
    assert (function.domain, function.name) == ("convlayers.functions", "gated")
    assert json.loads(function.doc_string) == {
        "layer": "gated",
        "distribution": "the running program",
        "config": {"slope": 0.5},
        "params": ["slope", "shift"],
    }
    (node,) = [node for node in written.graph.node if node.domain == DOMAIN]
    assert (node.op_type, node.name) == ("gated", "middle")
    assert list(node.input) == ["1/Relu", "middle.slope", "middle.shift"]
    assert {"middle.slope", "middle.shift"} <= {tensor.name for tensor in written.graph.initializer}
    assert list(function.input) == ["x", "slope", "shift"]
    assert [entry.version for entry in function.opset_import] == [opset]
    assert written.ir_version >= 8
    assert {entry.domain for entry in written.opset_import} == {"", DOMAIN}


def test_one_body_is_written_once_and_others_are_numbered(tmp_path):
    layers = [cl.Dense(4), Gated(0.5), Gated(0.5), cl.Reshape([4, 1, 1]), Gated(0.5), Gated(2.0), cl.Flatten(), Gated(0.5)]
    written = export(cl.Sequential(layers, input_shape=(3,)), tmp_path)
    assert [function.name for function in written.functions] == ["gated", "gated_2"]
    assert [json.loads(f.doc_string)["config"]["slope"] for f in written.functions] == [0.5, 2.0]
    called = [(node.op_type, node.name) for node in written.graph.node if node.domain == DOMAIN]
    assert called == [("gated", "1"), ("gated", "2"), ("gated", "4"), ("gated_2", "5"), ("gated", "7")]


def test_a_join_and_a_shared_layer(tmp_path):
    a, b, shared = cl.Input((4,)), cl.Input((4,)), Gated()
    written = export(cl.Model([a, b], Doubling()(shared(a, name="left"), shared(b, name="right"))), tmp_path)
    assert [function.name for function in written.functions] == ["gated", "doubling"]
    assert list(written.functions[1].input) == ["x_1", "x_2"]
    assert [tensor.name for tensor in written.graph.initializer] == ["left.slope", "left.shift"]
    assert [node.name for node in written.graph.node] == ["left", "right", "doubling"]


def test_with_images_of_any_size_and_a_certificate(tmp_path):
    model = cl.Sequential([Gated(), cl.GlobalAvgPool2d()], input_shape=(2, 6, 6))
    export(model, tmp_path, dynamic_image=True, certificate=True)
    assert run(tmp_path / "m.onnx", random(2, 2, 9, 4))[0].shape == (2, 2, 1, 1)


def test_a_wrong_function_is_a_mismatch_that_names_the_layer(tmp_path):
    class Wrong(Gated):
        def _operators(self, graph, x):
            return graph.op("Mul", x, self.params["slope"])

    registry._registered["wrong"] = Wrong
    with pytest.raises(ExportMismatchError, match='Wrong "middle"'):
        cl.export_onnx(chain(Wrong()), tmp_path / "m.onnx")


class Strange(Gated):
    """Registered, with a configuration that is not JSON."""

    def config(self):
        return {"slope": np.inf}


@pytest.mark.parametrize(
    ("base", "body", "reason"),
    [
        (Gated, lambda graph, x: None, "must return the name of what it computes; got None"),
        (Gated, lambda graph, x: x, "must return the name"),
        (Gated, lambda graph, x: graph.op("Relu", "1/Relu"), "Relu reads '1/Relu'"),
        (Gated, lambda graph, x: graph.op("Add", x, np.array("a")), "real numbers"),
        (Gated, lambda graph, x: graph.op("NoSuchOperator", x), "NoSuchOperator"),
        (Gated, lambda graph, x: graph.shape("elsewhere"), "'elsewhere' is not known"),
        (Strange, lambda graph, x: graph.op("Relu", x), "configuration of JSON values"),
        (type("Unknown", (Gated,), {}), lambda graph, x: graph.op("Relu", x), "is not registered"),
    ],
)
def test_mistakes_in_a_body(base, body, reason, tmp_path):
    class Mistaken(base):
        def to_onnx(self, graph, *inputs):
            return graph.function(self, inputs, body)

    if base.__name__ != "Unknown":
        registry._registered["mistaken"] = Mistaken
    with pytest.raises(ExportError, match=reason) as caught:
        cl.export_onnx(chain(Mistaken()), tmp_path / "m.onnx")
    assert "middle" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_parameter_called_as_the_input(tmp_path):
    class Clash(Gated):
        def build(self, input_shape, rng):
            self.params["x"] = np.ones(1, np.float32)
            return super().build(input_shape, rng)

    registry._registered["clash"] = Clash
    with pytest.raises(ExportError, match=r'Clash "middle": the parameter \'x\' has the name'):
        cl.export_onnx(chain(Clash()), tmp_path / "m.onnx")


def test_what_a_function_says_of_its_layer_is_read_back():
    text = describe(Gated(0.5), ["slope", "shift"])
    assert described(text) == Described("gated", "the running program", {"slope": 0.5}, ("slope", "shift"))


GOOD = {"layer": "gated", "distribution": "a 1.0", "config": {}, "params": []}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A function of somebody else.",
        "[]",
        "[" * 100_000,
        json.dumps(GOOD)[:-1],
        json.dumps({**GOOD, "more": 1}),
        json.dumps({key: GOOD[key] for key in ("layer", "config", "params")}),
        json.dumps({**GOOD, "layer": "../Gated"}),
        json.dumps({**GOOD, "layer": 3}),
        json.dumps({**GOOD, "distribution": None}),
        json.dumps({**GOOD, "config": []}),
        json.dumps({**GOOD, "params": "slope"}),
        json.dumps({**GOOD, "params": [1]}),
        json.dumps({**GOOD, "params": ["slope", "slope"]}),
        json.dumps({**GOOD, "params": [str(n) for n in range(1025)]}),
        json.dumps({**GOOD, "distribution": "a" * 2**20}),
    ],
    ids=range(16),
)
def test_other_doc_strings_say_nothing(text):
    assert described(json.dumps(GOOD)) is not None
    assert described(text) is None
