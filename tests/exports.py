"""What the tests of ONNX files share: small models, layers of their own, and onnxruntime itself."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, save

import convlayers as cl


def around(layer, shape):
    """A model of this one layer."""
    inputs = [cl.Input(s) for s in (shape if layer.joins else [shape])]
    return cl.Model(inputs, layer(*inputs), seed=3)


def chain(middle=None):
    """A small network; `middle` takes the place of its second convolution, named "middle"."""
    middle = middle or cl.Conv2d(4, 3, padding=1)
    layers = [cl.Conv2d(4, 3, padding=1), cl.ReLU(), ("middle", middle), cl.MaxPool2d(2), cl.Flatten(), cl.Dense(3)]
    return cl.Sequential(layers, input_shape=(2, 6, 6), seed=1)


def graph():
    """Two inputs, a skip connection, one convolution at two places, two outputs."""
    a, b = cl.Input((3, 5, 5)), cl.Input((3, 5, 5))
    shared = cl.Conv2d(3, 3, padding="same")
    total = cl.Add()(shared(a, name="conv"), shared(b), a)
    return cl.Model([a, b], [cl.Softmax()(total, name="head"), cl.Flatten()(total)], seed=2)


def run(path, *inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip([i.name for i in session.get_inputs()], inputs, strict=True)))


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class Lone(cl.Layer):
    """Base of the tests' own layers: y = 2 x, exported as each test wants."""

    def forward(self, x, *, training):
        return x * x.dtype.type(2), None


class Doubled(Lone):
    def to_onnx(self, graph, *inputs):
        return graph.op("Mul", *inputs, np.array(2.0))


def misuse(write):
    return type("Plugin", (Lone,), {"to_onnx": write})()


def foreign(tmp_path, nodes, inputs, outputs, constants=(), **more):
    """A file of another program; inputs and outputs are (name, type, shape)."""
    values = [[helper.make_tensor_value_info(*v) for v in side] for side in (inputs, outputs)]
    graph = helper.make_graph(nodes, "g", *values, [numpy_helper.from_array(a, n) for n, a in constants])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **more)
    save(proto, tmp_path / "foreign.onnx")
    return tmp_path / "foreign.onnx"


def convolution(tmp_path, batch="N", shape=(1, 2, 3, 3), **more):
    nodes = [helper.make_node("Conv", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    weight = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    ends = [("x", TensorProto.FLOAT, [batch, 2, 5, 5])], [("y", TensorProto.FLOAT, [batch, shape[0], 3, 3])]
    return foreign(tmp_path, nodes, *ends, [("w", weight)], **more)


def identity(tmp_path, kind=TensorProto.FLOAT, shape=("N", 3), nodes=None, output=None):
    nodes = nodes or [helper.make_node("Identity", ["x"], ["y"])]
    return foreign(tmp_path, nodes, [("x", kind, shape)], [("y", kind, shape if output is None else output)])


def small():
    layers = [cl.Conv2d(2, 3, padding=1), cl.ReLU(), cl.AvgPool2d(2), cl.Flatten(), cl.Dense(3)]
    return cl.Sequential(layers, input_shape=(1, 6, 6), seed=5)
