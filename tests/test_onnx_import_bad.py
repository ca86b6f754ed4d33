"""ONNX files that nobody vouches for: each kind of bad file has its error, before it takes memory or time."""

import os
import tracemalloc

import numpy as np
import onnx
import pytest
from exports import convolution, foreign, identity
from onnx import GraphProto, TensorProto, ValueInfoProto, helper

import convlayers as cl
from convlayers.errors import ConvlayersError, FileAccessError, FileFormatError, OnnxImportError

node = helper.make_node
IMAGE, FLAT = ("x", TensorProto.FLOAT, ["N", 3, 4, 4]), ("y", TensorProto.FLOAT, ["N", "?"])


def graph(tmp_path, *nodes, constants=(), inputs=(IMAGE,), outputs=(FLAT,), **more):
    """A file of these operators, of which the last gives y."""
    return foreign(tmp_path, list(nodes), inputs, outputs, constants, **more)


def changed(path, change):
    """The file after `change(proto)`."""
    proto = onnx.load(path, load_external_data=False)
    change(proto)
    path.write_bytes(proto.SerializeToString())
    return path


def integers(name, values):
    return (name, np.array(values, np.int64))


def refused(path, error, *words, **options):
    """Importing the file raises this error, which names the file and says all `words` in one line."""
    with pytest.raises(error) as caught:
        cl.import_onnx(path, **options)
    message = str(caught.value)
    for word in (str(path), *words):
        assert word in message
    assert "\n" not in message


# Operators in the way


def test_every_operator_in_the_way_is_listed_before_anything_is_built(tmp_path):
    nodes = [
        node("Det", ["x"], ["a"], name="first"),
        node("Det", ["x"], ["b"], name="second"),
        node("Relu", ["x"], ["fine"]),
        node("Transpose", ["x"], ["c"], name="turned", perm=[1, 0, 2, 3]),
        node("Mystery", ["x"], ["d"], name="foreign", domain="other"),
        node("Sum", ["a", "b", "c", "fine"], ["y"], name="behind"),
    ]
    path = changed(graph(tmp_path, *nodes), lambda proto: proto.opset_import.add(domain="other", version=1))
    changed(path, lambda proto: proto.graph.output.add().CopyFrom(helper.make_tensor_value_info("d", TensorProto.FLOAT, [1])))
    words = ['Det "first", "second": no layer', 'Transpose "turned": it moves the batch axis', 'other.Mystery "foreign"']
    refused(path, OnnxImportError, *words)
    with pytest.raises(OnnxImportError) as caught:
        cl.import_onnx(path)
    assert "behind" not in str(caught.value), "it can be read once the others can"


def test_many_reasons_are_cut_and_every_operator_is_named(tmp_path):
    nodes = [node("Transpose", ["x"], [f"v{i}"], perm=[i, i, i, i]) for i in range(1, 200)]
    nodes += [node("Det", ["x"], ["d"]), node("Sum", [*(f"v{i}" for i in range(1, 200)), "d"], ["y"])]
    refused(graph(tmp_path, *nodes), OnnxImportError, 'Transpose "v1"', "and 100 more reasons, at Det, Transpose")


# The graph


def swapped(proto):
    proto.graph.node.reverse()


def own_output(proto):
    proto.graph.node[0].input[0] = proto.graph.node[1].output[0]


def no_weight(proto):
    del proto.graph.initializer[:]


def two_weights(proto):
    proto.graph.initializer.append(proto.graph.initializer[0])


def two_outputs(proto):
    proto.graph.node[1].output[0] = proto.graph.node[0].output[0]


def integer_weight(proto):
    proto.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.INT32, [1, 2, 3, 3], [1] * 18))


def string_weight(proto):
    proto.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.STRING, [1, 2, 3, 3], ["a"] * 18))


def sparse_weight(proto):
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    places = helper.make_tensor("places", TensorProto.INT64, [1], [0])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [1, 2, 3, 3]))
    del proto.graph.initializer[:]


def cut_weight(proto):
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]


def huge_weight(proto):
    proto.graph.initializer[0].dims[:] = [2**31, 2**31]


def negative_weight(proto):
    proto.graph.initializer[0].dims[0] = -1


def no_outputs(proto):
    del proto.graph.output[:]


def unknown_output(proto):
    proto.graph.output[0].name = "other"


def newer(proto):
    proto.opset_import[0].version = 999


def string_input(proto):
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING


def sequence_input(proto):
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 2, 5, 5])
    proto.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(kind))


def huge_input(proto):
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**40


def long_input(proto):
    for _ in range(40):
        proto.graph.input[0].type.tensor_type.shape.dim.add(dim_value=1)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (swapped, FileFormatError, ["topologically sorted"]),
        (own_output, FileFormatError, ["topologically sorted"]),
        (no_weight, FileFormatError, ["'w'"]),
        (two_weights, FileFormatError, ["w"]),
        (two_outputs, FileFormatError, ["single static assignment"]),
        (integer_weight, OnnxImportError, ['Conv "z"', "its weight must be floats; got int32"]),
        (string_weight, OnnxImportError, ['Conv "z"', "its weight must be floats"]),
        (sparse_weight, OnnxImportError, ['the weight "w" is sparse']),
        (cut_weight, FileFormatError, ["w"]),
        (huge_weight, FileFormatError, ['tensor "w" has the shape (2147483648, 2147483648)', "at most 268435456"]),
        (negative_weight, FileFormatError, ['tensor "w" has the shape (-1, 2, 3, 3)']),
        (no_outputs, FileFormatError, ["no outputs"]),
        (unknown_output, ConvlayersError, ["other"]),
        (newer, OnnxImportError, ["has opset 999; the installed onnx knows 1 to"]),
        (string_input, OnnxImportError, ['input "x" is string']),
        (sequence_input, OnnxImportError, ['input "x"', "a model takes tensors of floats"]),
        (huge_input, OnnxImportError, ['input "x"', "1099511627776"]),
        (long_input, OnnxImportError, ['input "x"', "too large"]),
    ],
)
def test_a_damaged_graph(tmp_path, change, error, words):
    refused(changed(convolution(tmp_path), change), error, *words)


def test_every_truncation_is_refused(tmp_path):
    data = convolution(tmp_path).read_bytes()
    for length in range(len(data) - 1):
        with pytest.raises(ConvlayersError):
            cl.import_onnx(data[:length])


def test_names_that_are_not_utf8(tmp_path):
    path = graph(tmp_path, node("Relu", ["x"], ["abcd"]), node("Relu", ["abcd"], ["y"]))
    path.write_bytes(path.read_bytes().replace(b"abcd", b"\x90\x90\x90\x90"))
    refused(path, FileFormatError, r"the name b'\x90\x90\x90\x90' is not UTF-8")


def test_names_that_no_layer_can_have(tmp_path):
    names = ["../../x", "__class__", "params", "a b\n", "é", "..", "/", "-"]
    ends = ["x", *(f"v{i}" for i in range(len(names) - 1)), "y"]
    nodes = [node("Relu", [ends[i]], [ends[i + 1]], name=name) for i, name in enumerate(names)]
    found = [step.name for step in cl.import_onnx(graph(tmp_path, *nodes)).steps]
    assert found == ["x", "__class__", "params", "a_b_", "_", "_", "v6", "y"] or len(set(found)) == len(names)


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


def test_a_loop_is_not_run(tmp_path):
    body = GraphProto(name="body")
    path = graph(tmp_path, node("Loop", ["", "", "x"], ["y"], body=body, name="turns"))
    with pytest.raises(FileFormatError, match='the Loop "turns" could run for ever'):
        cl.verify_onnx(path)


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


# Data in other files


@pytest.fixture
def external(tmp_path):
    """`external(location, **entries)`: a file in its folder whose weight lies there, behind 8 other bytes."""
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    weights = np.arange(18, dtype="<f4")
    for place in ("models/weights.bin", "models/sub/weights.bin", "secret.bin"):
        (tmp_path / place).write_bytes(bytes(8) + weights.tobytes())

    def make(location, **entries):
        def move(proto):
            tensor = proto.graph.initializer[0]
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in {"location": location, "offset": "8", **entries}.items():
                tensor.external_data.add(key=key, value=value)

        return changed(convolution(folder), move)

    return make


@pytest.mark.parametrize("location", ["weights.bin", "sub/weights.bin", "sub/../weights.bin"])
def test_weights_in_another_file(external, location):
    model = cl.import_onnx(external(location, length="72"), external_data=True)
    np.testing.assert_array_equal(model.parameters()["z.weight"].reshape(-1), np.arange(18))


def test_weights_in_another_file_are_read_on_request_only(external):
    path = external("weights.bin")
    refused(path, OnnxImportError, "tensor \"w\" lies in another file, 'weights.bin'; external_data=True reads it")
    with pytest.raises(OnnxImportError, match="lies in another file"):
        cl.import_onnx(path.read_bytes(), external_data=True)  # bytes are in no folder


@pytest.mark.parametrize("location", ["../secret.bin", "sub/../../secret.bin", "", ".", "sub", "none.bin", "\0", "w" * 5000])
def test_weights_outside_the_folder(external, location):
    refused(external(location), FileAccessError, 'tensor "w"', "no file below the model's folder", external_data=True)


def test_weights_at_an_absolute_place_or_behind_a_link(external, tmp_path):
    refused(external(str(tmp_path / "secret.bin")), FileAccessError, "no file below the model's folder", external_data=True)
    os.symlink(tmp_path / "secret.bin", tmp_path / "models" / "link.bin")
    refused(external("link.bin"), FileAccessError, "'link.bin', which is no file below the model's folder", external_data=True)
    os.symlink(tmp_path, tmp_path / "models" / "up")
    refused(external("up/secret.bin"), FileAccessError, "no file below the model's folder", external_data=True)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"offset": "12"}, "needs 72 bytes of weights.bin, and takes 72 from 12 on"),
        ({"offset": "99999999999"}, "from 99999999999 on"),
        ({"length": "71"}, "takes 71 from 8 on"),
        ({"offset": "-8"}, "counts of bytes; got '-8'"),
        ({"offset": "1e3"}, "counts of bytes; got '1e3'"),
        ({"offset": "9" * 5000}, "counts of bytes"),
    ],
)
def test_weights_beyond_the_end_of_their_file(external, entries, words):
    refused(external("weights.bin", **entries), FileFormatError, words, external_data=True)


def test_one_file_does_not_stand_for_many_weights(external):
    def more(proto):
        for i in range(3):
            tensor = proto.graph.initializer.add()
            tensor.CopyFrom(proto.graph.initializer[0])
            tensor.name = f"w{i}"
            proto.graph.node.insert(0, node("Conv", ["x", f"w{i}"], [f"c{i}"]))
        proto.graph.node[-2].CopyFrom(node("Sum", ["c0", "c1", "c2"], ["z"]))

    path = changed(external("weights.bin"), more)
    refused(path, FileFormatError, "belong to no other tensor", external_data=True)


def test_only_weights_lie_in_other_files(tmp_path, monkeypatch):
    (tmp_path / "secret.bin").write_bytes(bytes(12))
    monkeypatch.chdir(tmp_path)
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL, name="t")
    tensor.external_data.add(key="location", value="secret.bin")
    nodes = [node("Constant", [], ["c"], value=tensor), node("Add", ["x", "c"], ["y"])]
    refused(identity(tmp_path, nodes=nodes), OnnxImportError, '"t"', "no weights of the graph", external_data=True)
