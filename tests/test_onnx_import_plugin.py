"""Handlers that other distributions bring for `import_onnx`: found lazily, each operator with one owner."""

import sys

import numpy as np
import pytest
from bad_files import changed, graph, node, refused

import convlayers as cl
from convlayers.errors import OnnxImportError
from convlayers.onnx.imports import available_handlers

MODULE = """
import convlayers as cl

def swish(op):
    return op.layer(cl.SiLU(), op.tensor(0))

def fails(op):
    return 1 / 0

def odd(op):
    return "y"

number = 3
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """`install(name, **entries)` puts a distribution in reach; an entry is an operator of com.example and its function."""
    folder = tmp_path / "site"
    folder.mkdir()

    added = []

    def add(name, **entries):
        added.append(f"{name}_onnx")
        (folder / f"{name}_onnx.py").write_text(MODULE)
        metadata = folder / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{key} = {name}_onnx:{value}" for key, value in entries.items()]
        (metadata / "entry_points.txt").write_text("\n".join(["[convlayers.onnx_import]", *lines]))
        # A path of its own each time: what is installed is remembered by the path.
        monkeypatch.syspath_prepend(folder)

    yield add
    for name in added:
        sys.modules.pop(name, None)


def calling(tmp_path, op_type):
    """A file that calls an operator of com.example."""
    path = graph(tmp_path, node(op_type, ["x"], ["y"], domain="com.example", name="act"))
    return changed(path, lambda proto: proto.opset_import.add(domain="com.example", version=2))


def test_a_handler_is_loaded_when_a_file_needs_it(install, tmp_path):
    install("one", **{"com.example/Swish/1": "swish"})
    assert [entry.owner for entry in available_handlers()["com.example", "Swish"]] == ["one 1.0"]
    cl.import_onnx(graph(tmp_path, node("Relu", ["x"], ["y"])))
    assert "one_onnx" not in sys.modules, "nobody needed it"
    model = cl.import_onnx(calling(tmp_path, "Swish"))
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(model(x), x / (1 + np.exp(-x)), rtol=1e-5, atol=1e-6)


def test_without_it_the_operator_is_in_the_way(tmp_path):
    refused(calling(tmp_path, "Swish"), OnnxImportError, 'com.example.Swish "act": no layer computes this operator')


def test_two_owners_hurt_only_those_who_need_them(install, tmp_path):
    install("one", **{"com.example/Swish/1": "swish", "com.example/Other/1": "swish"})
    install("two", **{"com.example/Swish/1": "swish", "ai.onnx/Relu/1": "swish"})
    refused(
        calling(tmp_path, "Swish"), OnnxImportError, "com.example/Swish/1 has two owners: ", "one 1.0", "two 1.0", "uninstall"
    )
    assert cl.import_onnx(calling(tmp_path, "Other"))
    relu = graph(tmp_path, node("Relu", ["x"], ["y"]))
    refused(relu, OnnxImportError, "ai.onnx/Relu/1 has two owners: convlayers and two 1.0")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("fails", ["its handler failed: ZeroDivisionError: division by zero"]),
        ("odd", ["its handler, of one 1.0, must give values of the graph; got str"]),
        ("missing", ['the ONNX handler "com.example/Swish/1" of one 1.0 could not be imported', "missing"]),
        ("number", ["one_onnx:number is not a function"]),
    ],
)
def test_a_broken_handler_hurts_only_those_who_need_it(install, tmp_path, function, words):
    install("one", **{"com.example/Swish/1": function})
    assert cl.import_onnx(graph(tmp_path, node("Relu", ["x"], ["y"])))
    refused(calling(tmp_path, "Swish"), OnnxImportError, 'com.example.Swish "act"', *words)


@pytest.mark.parametrize("name", ["Swish", "com.example/Swish", "com.example/Swish/new", "com.example//1"])
def test_a_handler_whose_name_says_no_operator(install, tmp_path, name):
    install("one", **{name: "swish"})
    assert cl.import_onnx(graph(tmp_path, node("Relu", ["x"], ["y"])))
    words = ['no layer computes this operator; the handler "', "of one 1.0 is not named domain/Operator/opset"]
    refused(calling(tmp_path, "Swish"), OnnxImportError, *words)


def test_a_handler_for_a_later_opset_is_not_asked(install, tmp_path):
    install("one", **{"com.example/Swish/3": "swish"})
    refused(calling(tmp_path, "Swish"), OnnxImportError, "no layer computes this operator")
