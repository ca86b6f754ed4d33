"""The good files that a fuzz run damages: every layer and reference family, ONNX's own test models, and graphs by hand.

`write(folder)` gives the files in an order that does not change; `more` adds ONNX's own node cases, which take half a minute
to compute, and its larger models.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx.backend.test
from onnx import TensorProto, helper, numpy_helper

import convlayers as cl
from convlayers.testing import registered_examples

FAMILIES = {
    "lenet5": lambda: cl.models.lenet5(seed=0),
    "mobilenet": lambda: cl.models.mobilenet_small((3, 16, 16), seed=0),
    "resnet": lambda: cl.models.resnet20((3, 16, 16), seed=0),
    "tcn": lambda: cl.models.tcn((1, 32), filters=4, levels=2, seed=0),
    "unet": lambda: cl.models.unet((1, 16, 16), width=4, depth=2, seed=0),
}
LARGER_FAMILIES = {
    "mobilenet_v2": lambda: cl.models.mobilenet_v2((3, 32, 32), 10, seed=0),
    "squeezenet": lambda: cl.models.squeezenet((3, 64, 64), 10, seed=0),
    "vgg": lambda: cl.models.vgg_small(seed=0),
}
LIGHT = ("squeezenet", "shufflenet")
LARGER = ("densenet121", "inception_v1", "resnet50")


def write(folder: Path, more: bool) -> list[Path]:
    """The files in `folder`, sorted by name. `weights.bin` there belongs to one of them."""
    for name, model in networks(more):
        cl.export_onnx(model, folder / f"{name}.onnx")
    for name, proto in by_hand(folder):
        onnx.save(proto, folder / f"hand-{name}.onnx")
    data = Path(onnx.backend.test.__path__[0]) / "data"
    for path in data.glob("pytorch-*/*/model.onnx"):
        (folder / f"{path.parent.name}.onnx").write_bytes(path.read_bytes())
    for name in (*LIGHT, *(LARGER if more else ())):
        (folder / f"light-{name}.onnx").write_bytes((data / "light" / f"light_{name}.onnx").read_bytes())
    if more:
        node_cases(folder)
    return sorted(folder.glob("*.onnx"))


def networks(more: bool) -> Iterator[tuple[str, cl.Model]]:
    """Each reference family, and each layer alone."""
    for name, make in (FAMILIES | (LARGER_FAMILIES if more else {})).items():
        yield f"family-{name}", make()
    for layer_id, config, shape in {example[0]: example for example in registered_examples()}.values():
        layer = cl.create_layer(layer_id, **config)
        inputs = [cl.Input(s) for s in (shape if layer.joins else [shape])]
        yield f"layer-{layer_id}", cl.Model(inputs, layer(*inputs), seed=0)


def node_cases(folder: Path) -> None:
    from onnx.backend.test.loader import load_model_tests

    for case in load_model_tests(kind="node"):
        if case.model and case.model.ByteSize() < 20_000:
            (folder / f"node-{case.name}.onnx").write_bytes(case.model.SerializeToString())


# By hand


def by_hand(folder: Path) -> Iterator[tuple[str, Any]]:
    yield "shapes", shape_arithmetic()
    yield "functions", functions()
    yield "branches", branches()
    yield "external", external(folder)


def model(nodes: list[Any], weights: dict[str, np.ndarray], output: list[Any], **more: Any) -> Any:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["N", 3, 8, 8]), ("y", output))]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def filters(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def shape_arithmetic() -> Any:
    """What PyTorch writes for `x.view(x.size(0), -1)` and for an upsampling to a size that is computed."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Shape", ["c"], ["s"]),
        node("Slice", ["s", "two", "four", "zero"], ["hw"]),
        node("Mul", ["hw", "double"], ["large"]),
        node("Slice", ["s", "zero", "two", "zero"], ["nc"]),
        node("Concat", ["nc", "large"], ["sizes"], axis=0),
        node("Resize", ["c", "", "", "sizes"], ["r"], mode="nearest"),
        node("Shape", ["r"], ["rs"]),
        node("Gather", ["rs", "first"], ["n"], axis=0),
        node("Unsqueeze", ["n", "zero"], ["n1"]),
        node("Concat", ["n1", "rest"], ["flat"], axis=0),
        node("Reshape", ["r", "flat"], ["f"]),
        node("Gemm", ["f", "fc"], ["y"], transB=1),
    ]
    numbers = {"zero": [0], "two": [2], "four": [4], "double": [2], "rest": [-1], "first": 0}
    weights = {name: np.array(value, np.int64) for name, value in numbers.items()}
    return model(nodes, {"w": filters(4, 3, 3, 3), "fc": filters(5, 4 * 16 * 16), **weights}, ["N", 5])


def functions() -> Any:
    """Local functions that call each other, with an attribute handed on."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    inner = helper.make_function("local", "Inner", ["a"], ["b"], [leaky], opsets, ["slope"])
    call = helper.make_node("Inner", ["c"], ["b"], domain="local", slope=0.2)
    conv = helper.make_node("Conv", ["a", "w"], ["c"])
    outer = helper.make_function("local", "Block", ["a", "w"], ["b"], [conv, call], opsets)
    nodes = [
        helper.make_node("Block", ["x", "w1"], ["h"], domain="local"),
        helper.make_node("Block", ["h", "w2"], ["y"], domain="local"),
    ]
    return model(nodes, {"w1": filters(4, 3, 3, 3), "w2": filters(2, 4, 3, 3)}, ["N", 2, 4, 4], functions=[inner, outer])


def branches() -> Any:
    """A graph inside an operator, that reads values of the graph around it."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("t", "e")]
    then = helper.make_graph([helper.make_node("Relu", ["x"], ["t"])], "then", [], ends[:1])
    other = helper.make_graph([helper.make_node("Mul", ["x", "scale"], ["e"])], "else", [], ends[1:])
    nodes = [
        helper.make_node("If", ["flag"], ["h"], then_branch=then, else_branch=other),
        helper.make_node("GlobalAveragePool", ["h"], ["y"]),
    ]
    return model(nodes, {"flag": np.array(True), "scale": np.array(2, np.float32)}, ["N", 3, 1, 1])


def external(folder: Path) -> Any:
    """A convolution whose weights lie in `weights.bin`."""
    array = filters(4, 3, 3, 3)
    (folder / "weights.bin").write_bytes(bytes(64) + array.tobytes())
    proto = model([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": array}, ["N", 4, 6, 6])
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "64"), ("length", str(array.nbytes))):
        tensor.external_data.add(key=key, value=value)
    return proto
