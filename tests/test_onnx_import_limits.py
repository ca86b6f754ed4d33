"""ONNX files that ask for much: depth, calls, operators, and memory, each refused before it is given."""

import tracemalloc

import numpy as np
import pytest
from bad_files import changed, graph, integers, node, refused
from onnx import GraphProto, TensorProto, ValueInfoProto, helper

import convlayers as cl
from convlayers.errors import ExportError, FileFormatError, OnnxImportError
from convlayers.onnx import OnnxModel

# Depth, and numbers of things


def nested(depth):
    inner = GraphProto(name="g", node=[node("Identity", ["x"], ["y"])], output=[ValueInfoProto(name="y")])
    for _ in range(depth):
        branches = {"then_branch": inner, "else_branch": inner if depth < 3 else GraphProto(name="e")}
        inner = GraphProto(name="g", node=[node("If", ["flag"], ["y"], **branches)], output=[ValueInfoProto(name="y")])
    return inner.node[0]


def test_graphs_nested_too_deep(tmp_path):
    refused(graph(tmp_path, nested(20), constants=[("flag", np.array(True))]), FileFormatError, "nested more than 16 deep")


def test_more_operators_than_are_read(tmp_path):
    chain = [node("Relu", ["x" if i == 0 else f"v{i}"], [f"v{i + 1}"]) for i in range(100_001)]
    refused(graph(tmp_path, *chain, node("Relu", ["v100001"], ["y"])), FileFormatError, "more than 100000 operators")


def test_thousands_of_operators_inputs_and_outputs_of_one_name(tmp_path):
    count = 3000
    inputs = [(f"x{i}", TensorProto.FLOAT, ["N", 2]) for i in range(count)]
    outputs = [(f"y{i}", TensorProto.FLOAT, ["N", 2]) for i in range(count)]
    nodes = [node("Relu", [x], [y], name="same") for (x, *_), (y, *_) in zip(inputs, outputs, strict=True)]
    model = cl.import_onnx(graph(tmp_path, *nodes, inputs=inputs, outputs=outputs))
    assert [step.name for step in model.steps[:3]] == ["same", "same_1", "same_2"]
    assert (len(model.steps), len(model.input_shapes)) == (count, count)


def functions(proto, *bodies):
    """Local functions f0, f1, ...; each body lists the functions that it calls in turn, None for Identity."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    proto.opset_import.add(domain="local", version=1)
    for number, calls in enumerate(bodies):
        ends = ["a", *(f"v{i}" for i in range(len(calls) - 1)), "b"]
        nodes = [
            node("Identity" if callee is None else f"f{callee}", [start], [end], domain="" if callee is None else "local")
            for callee, start, end in zip(calls, ends, ends[1:], strict=False)
        ]
        proto.functions.append(helper.make_function("local", f"f{number}", ["a"], ["b"], nodes, opsets))


@pytest.mark.parametrize(
    ("bodies", "words"),
    [
        ([[0]], ['the function "f0" calls itself']),
        ([[1], [2], [0]], ['the function "f0" calls itself']),
        ([[None], [1]], ['the function "f1" calls itself']),  # nobody calls it
        ([*([i, i] for i in range(1, 31)), [None]], ["its functions make more than 100000 operators"]),
        ([*([i] for i in range(1, 40)), [None]], ["functions call functions more than 32 deep"]),
    ],
)
def test_functions_without_end(tmp_path, bodies, words):
    path = graph(tmp_path, node("f0", ["x"], ["y"], domain="local"))
    refused(changed(path, lambda proto: functions(proto, *bodies)), FileFormatError, *words)


def test_a_function_defined_twice(tmp_path):
    path = graph(tmp_path, node("f0", ["x"], ["y"], domain="local"))
    changed(path, lambda proto: functions(proto, [None]))
    refused(changed(path, lambda proto: proto.functions.append(proto.functions[0])), FileFormatError, '"f0" is defined twice')


@pytest.mark.parametrize("equation", ["....", "ij>", "7", "ij->", ""])
def test_an_equation_that_onnx_reads_for_ever(tmp_path, equation):
    path = graph(tmp_path, node("Einsum", ["x"], ["y"], equation=equation, name="e"))
    if equation == "ij->":
        refused(path, OnnxImportError, 'Einsum "e"')
    else:
        refused(path, FileFormatError, 'the Einsum "e" must have an equation such as ij,jk->ik')
        with pytest.raises(FileFormatError, match="equation such as"):
            cl.verify_onnx(path)


def test_operators_that_take_their_reader_down_are_not_run(tmp_path):
    loop = node("Loop", ["", "", "x"], ["y"], body=GraphProto(name="body"), name="turns")
    # onnx's shape inference takes the type of what Foo gives for granted.
    eye = [node("Foo", ["x"], ["f"], domain="other"), node("EyeLike", ["f"], ["y"], dtype=1, name="eye")]
    for nodes, reason in (([loop], 'the Loop "turns" could run for ever'), (eye, 'the EyeLike "eye" reads values whose type')):
        path = changed(graph(tmp_path, *nodes), lambda proto: proto.opset_import.add(domain="other", version=1))
        for read in (cl.verify_onnx, OnnxModel):
            with pytest.raises(FileFormatError, match=reason):
                read(path)


# Memory


HUGE = {
    "ConstantOfShape": [integers("a", [2**20, 2**20])],
    "Expand": [integers("a", [[1]]), integers("b", [2**20, 2**20])],
    "Tile": [integers("a", [1, 2]), integers("b", [2**40])],
    "Range": [integers("a", 0), integers("b", 2**60), integers("c", 1)],
    "Pad": [integers("a", [1]), integers("b", [0, 2**40])],
    "MatMul": [integers("a", np.ones((2**15, 1))), integers("b", np.ones((1, 2**15)))],
    "OneHot": [integers("a", [1, 2]), integers("b", 2**40), integers("c", [0, 1])],
    "Add": [integers("a", np.ones((2**15, 1))), integers("b", np.ones((1, 2**15)))],
}


def peak_of(path):
    """The refusal, and the most memory that it took."""
    tracemalloc.start()
    try:
        with pytest.raises(OnnxImportError) as caught:
            cl.import_onnx(path)
        return str(caught.value), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("op_type", HUGE)
def test_constants_too_large_to_compute(tmp_path, op_type):
    constants = HUGE[op_type]
    nodes = [node(op_type, [name for name, _ in constants], ["huge"], name="big"), node("Add", ["x", "huge"], ["y"])]
    message, peak = peak_of(graph(tmp_path, *nodes, constants=constants))
    assert f'{op_type} "big": it would make a constant of ' in message
    assert "268435456 are allowed" in message
    assert peak < 2**25


def test_an_old_pad_says_its_borders_itself(tmp_path):
    nodes = [node("Pad", ["a"], ["huge"], name="big", pads=[0, 2**40]), node("Add", ["x", "huge"], ["y"])]
    path = changed(
        graph(tmp_path, *nodes, constants=[("a", np.ones(1, np.float32))]), lambda p: setattr(p.opset_import[0], "version", 10)
    )
    assert 'Pad "big": it would make a constant of' in peak_of(path)[0]


def test_many_constants_that_are_each_small_enough(tmp_path):
    shape, values = integers("shape", [2**26]), [f"v{i}" for i in range(40)]
    fills = [node("ConstantOfShape", ["shape"], [name]) for name in values]
    message, _ = peak_of(graph(tmp_path, *fills, node("Sum", ["x", *values], ["y"]), constants=[shape]))
    assert "would take more memory than a file may" in message or "from constants alone" in message


def test_much_work_on_constants(tmp_path):
    sums = [node("ReduceSum", ["big"], [f"v{i}"]) for i in range(100)]
    nodes = [node("ConstantOfShape", ["shape"], ["big"]), *sums, node("Sum", ["x", *(f"v{i}" for i in range(100))], ["y"])]
    refused(
        graph(tmp_path, *nodes, constants=[integers("shape", [2**23])]), OnnxImportError, "ReduceSum", "from constants alone"
    )


@pytest.mark.parametrize(
    ("last", "constants"),
    [
        (node("Expand", ["x", "s"], ["y"], name="big"), [integers("s", [1, 3, 4, 2**40])]),
        (node("Resize", ["x", "", "", "s"], ["y"], name="big"), [integers("s", [1, 3, 2**20, 2**20])]),
        (node("Pad", ["x", "s"], ["y"], name="big"), [integers("s", [0, 0, 0, 0, 0, 0, 2**30, 2**30])]),
        (node("Tile", ["x", "s"], ["y"], name="big"), [integers("s", [1, 1, 2**20, 2**20])]),
        (node("Conv", ["x", "w"], ["y"], name="big", pads=[2**30] * 4), [("w", np.ones((1, 3, 1, 1), np.float32))]),
        (node("Unsqueeze", ["x", "s"], ["y"], name="big"), [integers("s", range(1, 60))]),
    ],
)
def test_layers_with_outputs_too_large(tmp_path, last, constants):
    message, peak = peak_of(graph(tmp_path, last, constants=constants))
    assert f'{last.op_type} "big": ' in message
    assert peak < 2**25


def test_strings_and_sparse_tensors_are_not_computed_with(tmp_path):
    text = node("Constant", [], ["t"], value=helper.make_tensor("t", TensorProto.STRING, [1], [b"a"]))
    refused(graph(tmp_path, text, node("Add", ["x", "t"], ["y"])), OnnxImportError, 'Add "y"')
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]), helper.make_tensor("i", TensorProto.INT64, [1], [0])
    sparse = node("Constant", [], ["t"], name="s", sparse_value=helper.make_sparse_tensor(*values, [2**40]))
    refused(graph(tmp_path, sparse, node("Add", ["x", "t"], ["y"])), OnnxImportError, 'Constant "s"', "sparse")
    cast = node("Cast", ["c"], ["t"], to=TensorProto.STRING, name="s")
    path = graph(tmp_path, cast, node("Add", ["x", "t"], ["y"]), constants=[("c", np.ones(3, np.float32))])
    refused(path, OnnxImportError, 'Cast "s": it casts to strings')


# Files that are run


@pytest.mark.parametrize("read", [cl.verify_onnx, OnnxModel])
@pytest.mark.parametrize("op_type", HUGE)
def test_constants_too_large_for_a_file_that_is_run(tmp_path, op_type, read):
    constants = HUGE[op_type]
    nodes = [node(op_type, [name for name, _ in constants], ["huge"], name="big"), node("Flatten", ["x"], ["y"])]
    path = graph(tmp_path, *nodes, constants=constants)
    with pytest.raises(ExportError, match=r'foreign\.onnx: ("huge" would hold|.* "big": it would make a constant of)'):
        read(path)


def test_a_batch_too_large_for_another_input(tmp_path):
    ends = [("x", TensorProto.FLOAT, [2**24, 1]), ("z", TensorProto.FLOAT, ["N", 100])]
    path = graph(tmp_path, node("Relu", ["x"], ["y"]), node("Relu", ["z"], ["w"]), inputs=ends, outputs=[("y", *ends[0][1:])])
    with pytest.raises(ExportError, match="a batch of 16777216 holds 1694498816 values, more than the 67108864 that are fed"):
        cl.verify_onnx(path)


def test_values_too_large_for_a_file_that_is_run(tmp_path):
    resized = node("Resize", ["x", "", "", "s"], ["r"], name="big")
    nodes = [resized, node("GlobalAveragePool", ["r"], ["a"]), node("Flatten", ["a"], ["y"])]
    path = graph(tmp_path, *nodes, constants=[integers("s", [1, 3, 2**20, 2**20])])
    with pytest.raises(ExportError, match='"r" would hold 3298534883328 values, more than the 268435456 allowed'):
        cl.verify_onnx(path)


def test_constants_inside_branches_and_functions_that_are_run(tmp_path):
    sizes = [integers("a", 0), integers("b", 2**60), integers("c", 1)]
    inner = [node("Range", ["a", "b", "c"], ["r"], name="big"), node("Cast", ["r"], ["t"], to=TensorProto.FLOAT)]
    branch = GraphProto(name="g", node=inner, output=[helper.make_tensor_value_info("t", TensorProto.FLOAT, ["n"])])
    chosen = node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)
    line = ("y", TensorProto.FLOAT, ["n"])
    with pytest.raises(ExportError, match='Range "big": it would make a constant of'):
        cl.verify_onnx(graph(tmp_path, chosen, constants=[*sizes, ("flag", np.array(True))], outputs=[line]))
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("local", "f", ["a", "b", "c"], ["t"], inner, opsets)
    call = node("f", ["a", "b", "c"], ["y"], domain="local")
    path = graph(tmp_path, call, constants=sizes, functions=[function], outputs=[line])
    changed(path, lambda proto: proto.opset_import.add(domain="local", version=1))
    with pytest.raises(ExportError, match=f"would hold {2**60} values"):
        cl.verify_onnx(path)
