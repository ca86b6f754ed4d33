"""Weights in other files: on request, below the folder of the model, and each byte once."""

import os

import numpy as np
import pytest
from bad_files import changed, node, refused
from exports import convolution, identity
from onnx import TensorProto

import convlayers as cl
from convlayers.errors import FileAccessError, FileFormatError, OnnxImportError

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
