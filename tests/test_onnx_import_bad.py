"""ONNX files that nobody vouches for: each kind of damage has its error, and every operator in the way is named."""

import onnx
import pytest
from bad_files import changed, graph, node, refused
from exports import convolution
from onnx import TensorProto, helper

import convlayers as cl
from convlayers.errors import ConvlayersError, FileFormatError, OnnxImportError

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


def large_input(proto):
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**28


def long_input(proto):
    for _ in range(40):
        proto.graph.input[0].type.tensor_type.shape.dim.add(dim_value=1)


def alien_attribute(proto):
    proto.graph.node[0].attribute.add(name="group", type=onnx.AttributeProto.INT, ref_attr_name="groups")


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
        (large_input, OnnxImportError, ['input "x": a sample of shape (2, 268435456, 5) is too large']),
        (long_input, OnnxImportError, ['input "x"', "too large"]),
        (alien_attribute, OnnxImportError, ['Conv "z"', "its attribute group is a function's attribute 'groups'"]),
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
    assert found == ["_/_/x", "__class__", "params", "a_b_", "_", "__1", "v6", "y"]
