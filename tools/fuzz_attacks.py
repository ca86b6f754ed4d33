"""Attacks on an importer that chance would not find: each changes a `ModelProto` in place."""

import random
from typing import Any

from onnx import GraphProto, TensorProto, helper

NUMBERS = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 5, 7, 64, 255, 65536, 2**24, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
# Where the weights of a file may not lie, and where they may.
PLACES = ("../secret.bin", "link.bin", "/etc/passwd", "sub/../../secret.bin", "", ".", "weights.bin", "\x00", "w" * 5000)


def _reroute(proto: Any, made: str, rng: random.Random) -> None:
    """Let an operator read `made`."""
    nodes = [node for node in proto.graph.node if node.input and made not in node.output]
    if nodes:
        node = rng.choice(nodes)
        node.input[rng.randrange(len(node.input))] = made


def add_weights(proto: Any, *tensors: Any) -> None:
    """Initializers that are no inputs, as newer versions of the format allow."""
    proto.ir_version = max(proto.ir_version, 8)
    proto.graph.initializer.extend(tensors)


def cycle(proto: Any, rng: random.Random) -> None:
    """An operator reads what it gives, or what comes later."""
    nodes = [node for node in proto.graph.node if node.input and node.output]
    if nodes:
        reader, writer = rng.choice(nodes), rng.choice(nodes)
        reader.input[rng.randrange(len(reader.input))] = rng.choice(writer.output)


def huge_fill(proto: Any, rng: random.Random) -> None:
    """A few bytes that ask for much memory, while the file is read or when it runs."""
    sizes = [rng.choice((1, 2**10, 2**14, 2**20, 2**31, 2**40, -1)) for _ in range(rng.randrange(1, 5))]
    shape = helper.make_tensor("huge_shape", TensorProto.INT64, [len(sizes)], sizes)
    add_weights(proto, shape)
    kind = rng.choice(("ConstantOfShape", "Expand", "Tile", "Range", "Pad", "MatMul", "OneHot", "RandomNormal", "Gather"))
    read = ["huge_shape"] if kind == "ConstantOfShape" else ["huge_shape", "huge_shape"]
    if kind == "Range":
        start, limit, step = (helper.make_tensor(f"huge_{i}", TensorProto.INT64, [], [v]) for i, v in enumerate((0, 2**62, 1)))
        add_weights(proto, start, limit, step)
        read = [t.name for t in (start, limit, step)]
    attributes = {"shape": sizes} if kind == "RandomNormal" else {}
    proto.graph.node.insert(0, helper.make_node(kind, [] if attributes else read, ["huge"], **attributes))
    _reroute(proto, "huge", rng)


def deep(proto: Any, rng: random.Random) -> None:
    """Graphs inside operators inside graphs."""
    if not proto.graph.input:
        return
    depth, twice = rng.choice((1, 5, 14, 20, 45)), rng.random() < 0.1
    graph = GraphProto(name="g")
    graph.node.add(op_type="Identity", input=[proto.graph.input[0].name], output=["y"])
    graph.output.add(name="y")
    for _ in range(min(depth, 10) if twice else depth):
        outer = GraphProto(name="g")
        outer.node.append(
            helper.make_node("If", ["flag"], ["y"], then_branch=graph, else_branch=graph if twice else GraphProto(name="e"))
        )
        outer.output.add(name="y")
        graph = outer
    add_weights(proto, helper.make_tensor("flag", TensorProto.BOOL, [], [True]))
    graph.node[0].output[0] = "nested"
    proto.graph.node.insert(0, graph.node[0])
    _reroute(proto, "nested", rng)


def calls(proto: Any, rng: random.Random) -> None:
    """Functions that call each other: for ever, or twice each, thirty deep."""
    count, endless = rng.choice((1, 3, 30)), rng.random() < 0.5
    if not any(entry.domain == "loop" for entry in proto.opset_import):
        proto.opset_import.add(domain="loop", version=1)
    for i in range(count):
        callee = f"f{(i + 1) % count if endless else i + 1}"
        last = not endless and i == count - 1
        one = helper.make_node("Identity" if last else callee, ["x"], ["h"], domain="" if last else "loop")
        two = helper.make_node("Identity" if last else callee, ["h"], ["y"], domain="" if last else "loop")
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("loop", 1)]
        proto.functions.append(helper.make_function("loop", f"f{i}", ["x"], ["y"], [one, two], opsets))
    if proto.graph.input:
        proto.graph.node.insert(0, helper.make_node("f0", [proto.graph.input[0].name], ["looped"], domain="loop"))
        _reroute(proto, "looped", rng)


def _values(kinds: dict[str, int], ending: str = "") -> list[Any]:
    return [helper.make_tensor_value_info(name + ending, kind, None) for name, kind in kinds.items()]


def endless(proto: Any, rng: random.Random) -> None:
    """A loop of 2**62 rounds in front of an operator."""
    if not proto.graph.input:
        return
    state = {"going": TensorProto.BOOL, "state": TensorProto.FLOAT}
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in state]
    body = helper.make_graph(nodes, "body", _values({"round": TensorProto.INT64, **state}), _values(state, "_out"))
    add_weights(proto, helper.make_tensor("rounds", TensorProto.INT64, [], [2**62]))
    proto.graph.node.insert(0, helper.make_node("Loop", ["rounds", "", proto.graph.input[0].name], ["turned"], body=body))
    _reroute(proto, "turned", rng)


def elsewhere(proto: Any, rng: random.Random) -> None:
    """A weight in another file, where it should not be."""
    if not proto.graph.initializer:
        return
    tensor = rng.choice(proto.graph.initializer)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=rng.choice(PLACES))
    for key in ("offset", "length"):
        if rng.random() < 0.4:
            tensor.external_data.add(key=key, value=rng.choice((str(rng.choice(NUMBERS)), "1e3", "x", "", "9" * 5000)))


def retyped(proto: Any, rng: random.Random) -> None:
    """An initializer that says that it holds something else."""
    if proto.graph.initializer:
        tensor = rng.choice(proto.graph.initializer)
        tensor.data_type = rng.randrange(27)
        if rng.random() < 0.5 and tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)


def older(proto: Any, rng: random.Random) -> None:
    """Another opset or IR version."""
    if not proto.opset_import:
        proto.opset_import.add()
    proto.opset_import[0].version = rng.choice((0, 1, 5, 7, 9, 11, 13, 18, 21, 22, 23, 24, 27, 999, -1))
    if rng.random() < 0.2:
        proto.ir_version = rng.choice((1, 3, 8, 13, 99))


ATTACKS = (cycle, huge_fill, deep, calls, endless, elsewhere, retyped, older)
