"""Certificates beside exported files: what they say, and what `verify` makes of those that do not fit."""

import hashlib
import json
import os
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from exports import chain, graph, misuse, small

import convlayers as cl
from convlayers.errors import ConvlayersError, ExportMismatchError, FileAccessError, FileFormatError
from convlayers.onnx import certificate as certificates
from convlayers.onnx import record
from convlayers.onnx.compare import lengths


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """A folder with chain's file and its certificate, and the export's report."""
    folder = tmp_path_factory.mktemp("certified")
    return folder, cl.export_onnx(chain(), folder / "m.onnx", certificate=True)


@pytest.fixture
def copied(certified, tmp_path):
    """The same two files, to be damaged."""
    shutil.copytree(certified[0], tmp_path, dirs_exist_ok=True)
    return tmp_path / "m.onnx"


def edit(path, **new):
    beside = certificates.path_of(path)
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **new}))


def change(path, what):
    proto = onnx.load(path)
    what(proto)
    onnx.save(proto, path)


def test_what_it_says(certified):
    folder, report = certified
    data = (folder / "m.onnx").read_bytes()
    entry = json.loads((folder / "m.verify.json").read_text())
    assert (entry["file"], entry["bytes"], entry["sha256"]) == ("m.onnx", len(data), hashlib.sha256(data).hexdigest())
    assert entry["versions"] == {
        "convlayers": cl.__version__,
        "numpy": np.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    assert entry["batches"] == [{"size": size, "seed": 0} for size in (1, 2, 7)]
    assert entry["errors"] == report.errors
    assert (entry["tolerance"], entry["seconds"]) == (report.tolerance, report.seconds)
    assert entry["tolerance_rule"].startswith(f"16 roundings of float32 times the square root of {max(lengths(chain()))}")
    assert list(entry["layers"]) == [name for name, _ in chain().layers()]
    assert report.certificate == str(folder / "m.verify.json")


class Cancelled(cl.Layer):
    """`y = (x + 10000) - 10000`, which loses digits."""

    def forward(self, x, *, training):
        return x + x.dtype.type(1e4) - x.dtype.type(1e4), None

    def to_onnx(self, graph, *inputs):
        return graph.op("Sub", graph.op("Add", graph.op("Mul", *inputs, np.array(1.0001)), np.array(1e4)), np.array(1e4))


def test_a_bound_by_the_model_s_own_rounding_says_so(tmp_path):
    cl.export_onnx(cl.Sequential([Cancelled()], input_shape=(99,)), tmp_path / "m.onnx", certificate=True)
    entry = json.loads((tmp_path / "m.verify.json").read_text())
    assert entry["tolerance_rule"].startswith("four times the model's own rounding: float32 against float64 differ by 0.000")
    assert max(entry["errors"].values()) <= entry["tolerance"]


def test_verify_checks_it(certified, copied):
    report = cl.verify_onnx(copied)
    assert (report.certificate, report.differences) == (str(copied.with_name("m.verify.json")), ())
    edit(copied, versions={"convlayers": cl.__version__, "numpy": np.__version__, "onnx": "1.0", "onnxruntime": "0.1"})
    report = cl.verify_onnx(copied)
    assert report.differences == (
        f"onnx {onnx.__version__} here, 1.0 at the export",
        f"onnxruntime {onnxruntime.__version__} here, 0.1 at the export",
    )
    assert report.differences[1] in str(report)
    certificates.path_of(copied).unlink()
    assert cl.verify_onnx(copied).certificate is None


def other_operator(proto):
    proto.graph.node[1].op_type = "Sigmoid"


def other_padding(proto):
    next(a for a in proto.graph.node[2].attribute if a.name == "pads").ints[:] = [2, 1, 0, 1]


def other_weight(proto):
    tensor = next(t for t in proto.graph.initializer if t.name == "middle.weight")
    values = -onnx.numpy_helper.to_array(tensor)
    tensor.raw_data = values.tobytes()


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (other_operator, 'output "output".*first layer that differs is "1"'),
        (other_padding, 'output "output".*first layer that differs is "middle"'),
        (other_weight, '"middle.weight" is not what was exported.*first layer that differs is "middle"'),
        (lambda proto: setattr(proto, "doc_string", "hello"), r"is not the file that .*m\.verify\.json certifies.*SHA-256"),
        (lambda proto: (setattr(proto, "producer_name", ""), proto.ClearField("metadata_props")), "is not the file that"),
    ],
)
def test_a_file_that_was_changed_is_refused_and_the_layer_named(copied, what, reason):
    change(copied, what)
    with pytest.raises(ExportMismatchError, match=reason) as caught:
        cl.verify_onnx(copied)
    assert str(copied) in str(caught.value)


def test_a_layer_that_cannot_be_told_is_not_named(copied):
    def renamed(proto):
        other_padding(proto)
        for node in proto.graph.node:
            for names in (node.input, node.output):
                names[:] = ["elsewhere" if name == "0/Conv" else name for name in names]

    change(copied, renamed)
    with pytest.raises(ExportMismatchError) as caught:
        cl.verify_onnx(copied)
    assert "first layer" not in str(caught.value)


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        ({"format": "convlayers certificate 2"}, "another format or version"),
        ({"file": "other.onnx"}, 'certifies "other.onnx", another file'),
        ({"file": 3}, "file is 3"),
        ({"sha256": "abc"}, "64 hexadecimal"),
        ({"errors": {}}, "at least 0"),
        ({"errors": {"output": "small"}}, "at least 0"),
        ({"errors": {"output": 0.5}}, "above the tolerance"),
        ({"errors": {"other": 0.0}}, "other outputs"),
        ({"tolerance": float("nan")}, "at least 0"),
        ({"tolerance": 0.5}, "another tolerance"),
        ({"batches": [{"size": 1}]}, "a size and a seed"),
        ({"batches": [{"size": 1, "seed": 0}]}, "other batches"),
        ({"versions": {"onnx": 1}}, "not texts"),
        ({"versions": []}, "not a whole certificate"),
        ({"layers": {"0": {"value": "x", "scale": 0, "values": ""}}}, "damaged"),
        ({"layers": {"0": {"value": "x", "scale": 1, "values": "?"}}}, "not a whole certificate"),
        ({"more": 1}, "its fields are"),
    ],
)
def test_a_certificate_that_was_changed_is_refused(copied, new, reason):
    edit(copied, **new)
    with pytest.raises(FileFormatError, match=reason) as caught:
        cl.verify_onnx(copied)
    assert "m.verify.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"hello", b"[" * 100_000, b"\xff\xfe"])
def test_what_is_no_certificate(copied, content):
    certificates.path_of(copied).write_bytes(content)
    with pytest.raises(FileFormatError, match="is not a whole certificate"):
        cl.verify_onnx(copied)


def test_every_truncation_and_any_flipped_byte_is_an_error_of_ours_or_harmless(copied):
    beside = certificates.path_of(copied)
    whole = beside.read_bytes()
    for length in range(0, len(whole) - 2, 97):
        beside.write_bytes(whole[:length])
        with pytest.raises(FileFormatError):
            cl.verify_onnx(copied)
    rng, sha = np.random.default_rng(4), json.loads(whole)["sha256"]
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= rng.integers(1, 256)
        beside.write_bytes(damaged)
        try:
            cl.verify_onnx(copied)
        except ConvlayersError:
            continue
        assert json.loads(damaged)["sha256"] == sha


def test_of_another_file_with_the_same_name(copied, tmp_path):
    cl.export_onnx(small(), copied)
    with pytest.raises(ExportMismatchError, match=r"is not the file that .* certifies"):
        cl.verify_onnx(copied)


def test_both_files_or_neither(tmp_path, monkeypatch):
    (tmp_path / "m.verify.json").mkdir()
    with pytest.raises(FileAccessError, match=r"m\.verify\.json: it is a folder"):
        cl.export_onnx(chain(), tmp_path / "m.onnx", certificate=True)
    assert os.listdir(tmp_path) == ["m.verify.json"]
    wrong = misuse(lambda self, graph, x: graph.op("Mul", x, np.array(2.1)))
    with pytest.raises(ExportMismatchError):
        cl.export_onnx(chain(wrong), tmp_path / "n.onnx", certificate=True)
    assert os.listdir(tmp_path) == ["m.verify.json"]


def test_a_graph_and_a_name_without_onnx_behind_it(tmp_path):
    report = cl.export_onnx(graph(), tmp_path / "m.v2", certificate=True)
    assert report.certificate == str(tmp_path / "m.v2.verify.json")
    assert set(json.loads((tmp_path / "m.v2.verify.json").read_text())["errors"]) == {"output_1", "output_2"}
    assert cl.verify_onnx(tmp_path / "m.v2").certificate == report.certificate


def test_only_evenly_spaced_values_are_kept():
    assert record.kept(np.arange(160), 16).tolist() == list(range(0, 160, 10))
