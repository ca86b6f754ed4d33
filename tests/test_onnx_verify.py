"""Exported files checked again: good ones, and ones that were changed, cut or damaged."""

import base64
import json

import numpy as np
import onnx
import pytest
from exports import small
from onnx import TensorProto

import convlayers as cl
from convlayers.errors import ConvlayersError, ExportError, ExportMismatchError, FileAccessError, FileFormatError
from convlayers.onnx import record
from convlayers.onnx.compare import draw


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    return path, cl.export_onnx(small(), path, labels=["a", "b", "c"], preprocessing={"mean": [0.5]})


def changed(exported, tmp_path, change):
    """The exported file with one change to it."""
    proto = onnx.load(exported[0])
    change(proto)
    onnx.save(proto, tmp_path / "changed.onnx")
    return tmp_path / "changed.onnx"


def test_a_good_file(exported):
    path, first = exported
    report = cl.verify_onnx(path)
    assert "recorded" in report.judge
    assert report.errors == pytest.approx(first.errors, rel=1e-3)
    assert (report.batches, report.tolerance) == ((1, 2, 7), first.tolerance)
    assert (report.bytes, report.nodes, report.opset) == (first.bytes, 5, 17)
    assert "recorded" in str(report)


def test_a_record_of_the_version_before_is_replayed(exported, tmp_path):
    """It drew every sample of a batch by itself."""
    shape = (1, 6, 6)
    batches = [draw(0, batch, [shape], samples=None)[0] for batch in (1, 2, 7)]
    assert len(np.unique(batches[2])) == 7 * 36
    outputs = np.concatenate([small()(x) for x in batches])
    entry = {"shape": [3], "scale": float(np.abs(outputs).max()), "values": base64.b64encode(outputs.tobytes()).decode()}
    path = changed(exported, tmp_path, another_record(version=1, outputs={"output": entry}))
    assert cl.verify_onnx(path).errors["output"] < 1e-5


def test_large_outputs_are_remembered_in_part(tmp_path):
    model = cl.Sequential([cl.Conv2d(8, 3)], input_shape=(1, 30, 30))
    cl.export_onnx(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size < 10_000
    assert cl.verify_onnx(tmp_path / "m.onnx").errors["output"] < 1e-5
    assert record.kept(np.arange(10_000)).tolist() == [i * 10_000 // 1024 for i in range(1024)]


def last_bit(proto):
    tensor = proto.graph.initializer[0]
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]


def another_operator(proto):
    proto.graph.node[1].op_type = "Sigmoid"


def another_padding(proto):
    next(a for a in proto.graph.node[0].attribute if a.name == "pads").ints[:] = [2, 1, 0, 1]


def another_record(**new):
    def change(proto):
        entry = next(p for p in proto.metadata_props if p.key == record.KEY)
        entry.value = json.dumps({**json.loads(entry.value), **new})

    return change


def recorded(name):
    return {name: {"shape": [4], "scale": 1, "values": base64.b64encode(bytes(4 * 40)).decode()}}


def cut_weight(proto):
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]


def negative_size(proto):
    proto.graph.initializer[0].dims[0] = -2


def elsewhere(proto):
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


def no_record(proto):
    del proto.metadata_props[-1]


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (last_bit, ExportMismatchError, '"0.weight" is not what was exported'),
        (another_operator, ExportMismatchError, 'output "output" of onnxruntime differs'),
        (another_padding, ExportMismatchError, "differs"),
        (cut_weight, FileFormatError, '"0.weight" does not hold'),
        (negative_size, FileFormatError, r"0\.weight"),
        (elsewhere, ExportError, "lies in another file"),
        (no_record, FileFormatError, "record is gone"),
        (another_record(seed=1), ExportMismatchError, "differs"),
        (another_record(version=3), FileFormatError, "version"),
        (another_record(batches=[10**9]), FileFormatError, "batch sizes"),
        (another_record(batches=[-1]), FileFormatError, "batch sizes"),
        (another_record(inputs={"input": [10**6, 10**6]}), FileFormatError, "shape of a sample"),
        (another_record(inputs={"input": [2**27]}), FileFormatError, "too large"),
        (another_record(inputs={"other": [1, 6, 6]}), ExportError, "fails"),
        (another_record(outputs={}), FileFormatError, "nothing to compare"),
        (another_record(outputs={"output": {"shape": [4], "scale": 1, "values": ""}}), FileFormatError, "do not fit"),
        (
            another_record(outputs=recorded("output")),
            ExportMismatchError,
            r"must have shape \(1, 4\); onnxruntime gives \(1, 3\)",
        ),
        (another_record(outputs=recorded("other")), ExportMismatchError, r'"other" must have shape .* gives None'),
        (another_record(bound=float("nan")), FileFormatError, "nothing to compare"),
        (another_record(seed=[]), FileFormatError, "damaged"),
        (lambda proto: setattr(proto.metadata_props[-1], "value", "[" * 9999), FileFormatError, "damaged"),
        (lambda proto: setattr(proto.opset_import[0], "version", 999), ExportError, "refuses the file"),
        (lambda proto: proto.ClearField("opset_import"), FileFormatError, "not a whole ONNX file"),
        (lambda proto: proto.ClearField("graph"), FileFormatError, "not a whole ONNX file"),
    ],
)
def test_a_changed_file_is_refused(exported, tmp_path, change, error, reason):
    path = changed(exported, tmp_path, change)
    with pytest.raises(error, match=reason) as caught:
        cl.verify_onnx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_truncation_is_refused(exported, tmp_path):
    data = exported[0].read_bytes()
    for length in [*range(0, len(data), 13), len(data) - 1]:
        (tmp_path / "cut.onnx").write_bytes(data[:length])
        with pytest.raises(FileFormatError, match=r"cut\.onnx"):
            cl.verify_onnx(tmp_path / "cut.onnx")


@pytest.mark.parametrize("ours", [True, False])
def test_damaged_bytes_give_an_error_of_ours_or_nothing(exported, tmp_path, ours):
    proto = onnx.load(exported[0])
    if not ours:
        proto.producer_name = ""
        del proto.metadata_props[:]
    data = proto.SerializeToString()
    rng = np.random.default_rng(20)
    refused = 0
    for _ in range(80):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= rng.integers(1, 256)
        (tmp_path / "m.onnx").write_bytes(damaged)
        try:
            cl.verify_onnx(tmp_path / "m.onnx")
        except ConvlayersError:
            refused += 1
    assert refused > (60 if ours else 30)


def test_what_is_no_onnx_file(tmp_path):
    for content in (b"", b"hello", b"PK\x03\x04" + bytes(100), np.random.default_rng(0).bytes(1000)):
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(FileFormatError, match="is not a whole ONNX file"):
            cl.verify_onnx(tmp_path / "m.onnx")
    for path in (tmp_path, tmp_path / "none.onnx"):
        with pytest.raises(FileAccessError, match="cannot read"):
            cl.verify_onnx(path)
