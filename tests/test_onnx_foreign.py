"""ONNX files of other programs checked, and files of any program as predictors."""

import numpy as np
import onnx
import pytest
from exports import convolution, foreign, identity, small
from onnx import TensorProto, helper

import convlayers as cl
from convlayers.errors import ArrayTypeError, ConfigError, ExportError, ExportMismatchError, FileFormatError, ShapeError
from convlayers.onnx import OnnxModel, record
from convlayers.onnx.compare import relative_error
from convlayers.tolerance import tolerance


def test_a_foreign_file_is_judged_by_the_reference_evaluator(tmp_path):
    report = cl.verify_onnx(convolution(tmp_path))
    assert "reference evaluator" in report.judge
    assert report.batches == (1, 2, 7)
    assert report.errors["y"] <= report.tolerance == tolerance(np.float32, 2 + 18)
    assert cl.verify_onnx(convolution(tmp_path, batch=4)).batches == (4,)


def test_a_foreign_file_with_integers_and_several_inputs(tmp_path):
    table = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["table", "index"], ["row"]), helper.make_node("Where", ["flag", "row", "x"], ["y"])]
    inputs = [("index", TensorProto.INT64, ["N"]), ("flag", TensorProto.BOOL, ["N", 1]), ("x", TensorProto.FLOAT, ["N", 4])]
    path = foreign(tmp_path, nodes, inputs, [("y", TensorProto.FLOAT, ["N", 4])], [("table", table)])
    assert cl.verify_onnx(path).errors == {"y": 0.0}
    model = OnnxModel(path)
    assert model.input_shape == [(), (1,), (4,)]
    found = model.predict([[1, 2], [[True], [False]], np.zeros((2, 4))])
    np.testing.assert_array_equal(found, [table[1], np.zeros(4)])
    with pytest.raises(ArrayTypeError, match="cannot hold"):
        model.predict([[1.5, 2], [[True], [False]], np.zeros((2, 4))])
    with pytest.raises(ArrayTypeError, match="takes 3 inputs; got 1"):
        model.predict(np.zeros((2, 4)))
    with pytest.raises(ShapeError, match="batch sizes differ: 1, 2, 2"):
        model.predict([[1], [[True], [False]], np.zeros((2, 4))])


def test_a_foreign_file_on_which_the_two_disagree(tmp_path, monkeypatch):
    from onnx.reference import ReferenceEvaluator

    honest = ReferenceEvaluator.run
    monkeypatch.setattr(ReferenceEvaluator, "run", lambda *a, **k: [y + np.float32(1e-3) for y in honest(*a, **k)])
    with pytest.raises(ExportMismatchError, match='output "y" of onnxruntime differs from onnx\'s reference evaluator'):
        cl.verify_onnx(convolution(tmp_path))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: identity(folder, shape=["N", 3, "H", "W"]), "every axis behind the batch needs a fixed size"),
        (lambda folder: identity(folder, shape=[]), "no batch axis"),
        (lambda folder: identity(folder, shape=["N", 2**20, 2**20]), "more than the"),
        (lambda folder: identity(folder, shape=[2**40, 1]), "more than the"),
        (lambda folder: identity(folder, TensorProto.STRING), r"tensor\(string\)"),
        (lambda folder: identity(folder, nodes=[helper.make_node("SequenceConstruct", ["x"], ["y"])]), "foreign.onnx"),
        (lambda folder: identity(folder, nodes=[helper.make_node("Mystery", ["x"], ["y"])]), "onnx.checker"),
        (lambda folder: identity(folder, nodes=[helper.make_node("Mystery", ["x"], ["y"], domain="other")]), "foreign.onnx"),
        (lambda folder: convolution(folder, shape=(1, 3, 3, 3)), "foreign.onnx"),
    ],
)
def test_a_foreign_file_that_cannot_be_judged(make, reason, tmp_path):
    with pytest.raises(ExportError, match=reason):
        cl.verify_onnx(make(tmp_path))


def test_weights_inside_an_operator_may_not_lie_elsewhere(tmp_path):
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    nodes = [helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("Add", ["x", "c"], ["y"])]
    with pytest.raises(ExportError, match="lies in another file"):
        cl.verify_onnx(identity(tmp_path, nodes=nodes))


def test_a_name_that_is_not_utf8(tmp_path):
    path = identity(tmp_path, shape=["rows", 3])
    path.write_bytes(path.read_bytes().replace(b"rows", b"\x90\x90\x90\x90"))
    with pytest.raises(ExportError, match="utf-8"):
        cl.verify_onnx(path)


# Files as predictors


def test_predicting_with_a_file(tmp_path):
    report = cl.export_onnx(small(), tmp_path / "m.onnx", labels=["a", "b", "c"], preprocessing={"mean": [0.5]})
    model = OnnxModel(tmp_path / "m.onnx")
    assert model.input_shape == (1, 6, 6)
    assert (model.metadata["labels"], model.metadata["preprocessing"]) == (["a", "b", "c"], {"mean": [0.5]})
    assert model.metadata["convlayers_version"] == cl.__version__
    assert record.KEY not in model.metadata
    x = np.random.default_rng(2).standard_normal((11, 1, 6, 6))
    expected = small()(x.astype(np.float32))
    for size in (1, 4, 256):
        assert relative_error(model.predict(x, size), expected) < report.tolerance
    assert model.predict(x[:0]).shape == (0, 3)
    assert model.predict(x[::2].astype(">f4")).shape == (6, 3)
    with pytest.raises(ShapeError, match=r"\(1, 6, 6\); got \(11, 36\)"):
        model.predict(x.reshape(11, 36))
    with pytest.raises(ArrayTypeError, match="real numbers"):
        model.predict(x.astype(complex))
    with pytest.raises(ConfigError, match="batch_size"):
        model.predict(x, 0)


def test_predicting_with_a_fixed_batch(tmp_path):
    model = OnnxModel(convolution(tmp_path, batch=4))
    assert model.predict(np.zeros((8, 2, 5, 5))).shape == (8, 1, 3, 3)
    with pytest.raises(ShapeError, match="batches of exactly 4"):
        model.predict(np.zeros((7, 2, 5, 5)))


def test_predicting_needs_an_output_for_each_sample(tmp_path):
    node = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    with pytest.raises(ShapeError, match="one output a sample"):
        OnnxModel(identity(tmp_path, nodes=[node], output=())).predict(np.zeros((2, 3)))


def test_labels_of_another_program(tmp_path):
    path = convolution(tmp_path)
    proto = onnx.load(path)
    helper.set_model_props(proto, {"labels": "cat, dog", "version": "1.0"})
    onnx.save(proto, path)
    assert OnnxModel(path).metadata == {"labels": "cat, dog", "version": "1.0"}


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_a_predictor_from_no_onnx_file(content, tmp_path):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(FileFormatError):
        OnnxModel(tmp_path / "m.onnx")
