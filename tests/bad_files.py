"""What the tests of bad ONNX files share: files by hand, changes to them, and the error that must come."""

import numpy as np
import onnx
import pytest
from exports import foreign
from onnx import TensorProto, helper

import convlayers as cl

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
