"""What the tests of the importer share: graphs of other programs, in bytes, and onnxruntime as their judge."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import convlayers as cl
from convlayers.testing import assert_close


def weights(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def bytes_of(nodes, shape, constants=(), opset=17, outputs=("y",), **more):
    """A file with the input x `(N, *shape)`; `constants` are arrays by name; nodes are `(op, inputs, outputs, attributes)`."""
    made = [helper.make_node(op, i.split(), o.split(), **(a[0] if a else {})) for op, i, o, *a in nodes]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(made, "g", inputs, results, [numpy_helper.from_array(v, k) for k, v in dict(constants).items()])
    imports = [helper.make_opsetid("", opset), *more.pop("opset_imports", [])]
    version = helper.find_min_ir_version_for(imports[:1])
    return helper.make_model(graph, opset_imports=imports, ir_version=version, **more).SerializeToString()


def runtime(data, x):
    """onnxruntime's first output."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def agreed(data, shape, length=64, batches=(1, 3)):
    """The model in `data`, after its outputs for `batches` have been compared with onnxruntime's."""
    model = cl.import_onnx(data)
    for batch in batches:
        x = weights(batch, *shape, seed=7)
        assert_close(model(x), runtime(data, x), length, f"a batch of {batch} of the imported model")
    return model
