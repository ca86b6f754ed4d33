"""ONNX's own test suite, run against the importer through ONNX's own runner; `onnx_cases.py` says which cases and why."""

import re
import subprocess
import sys

import numpy as np
import onnx_cases
import pytest
from conftest import ROOT
from onnx import TensorProto, helper
from onnx_cases import EXCLUDED, cases

from convlayers.errors import ArrayTypeError, OnnxImportError
from convlayers.onnx import backend

globals().update(onnx_cases.suite(__name__))


def test_every_exclusion_excludes_something():
    for pattern, reason in EXCLUDED:
        assert any(re.fullmatch(pattern, case.name) for case in cases()), f"no case is left out because they {reason}"


def test_all_networks_and_all_of_pytorchs_cases_run():
    run = {kind: sum(case.kind == kind for case in cases() if case.reason is None) for kind in onnx_cases.KINDS}
    assert run["real"] == 9
    assert run["pytorch-converted"] == 82
    assert run["pytorch-operator"] >= 35
    assert run["node"] >= 680


def sums():
    """y = 2 x + w, with an input for w."""
    nodes = [helper.make_node("Add", ["x", "x"], ["d"]), helper.make_node("Add", ["d", "w"], ["y"])]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in "xwy"]
    return helper.make_model(helper.make_graph(nodes, "sums", ends[:2], ends[2:]))


def test_inputs_by_place_and_by_name():
    x, w = np.ones((2, 3), np.float32), np.full((2, 3), 3, np.float32)
    ready = backend.prepare(sums())
    for given in ([x, w], (x, w), {"w": w, "x": x}):
        np.testing.assert_array_equal(ready.run(given)[0], 2 * x + w)
    assert ready.layers == 2
    np.testing.assert_array_equal(backend.run_model(sums(), [x, w])[0], 2 * x + w)


@pytest.mark.parametrize(("given", "words"), [([1.0], "has 2 inputs, x, w; got 1"), ({"x": 1.0}, "inputs w are missing")])
def test_inputs_that_are_not_there(given, words):
    with pytest.raises(ArrayTypeError, match=words):
        backend.prepare(sums()).run(given)


def test_one_operator():
    node = helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.5)
    y = backend.run_node(node, [np.array([[-2.0, 4.0]], np.float32)])[0]
    np.testing.assert_array_equal(y, np.array([[-1.0, 4.0]], np.float32))


def test_what_it_supports():
    assert backend.supports_device("CPU")
    assert not backend.supports_device("CUDA")
    assert backend.is_compatible(sums())
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in "xy"]
    other = helper.make_model(helper.make_graph([helper.make_node("Sin", ["x"], ["y"])], "g", ends[:1], ends[1:]))
    assert not backend.is_compatible(other)
    with pytest.raises(OnnxImportError, match=r'Sin "y": no layer computes this operator'):
        backend.prepare(other).run([np.ones((2, 2), np.float32)])


def test_the_table_in_the_docs_is_that_of_the_registry():
    done = subprocess.run([sys.executable, ROOT / "tools" / "operators.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
