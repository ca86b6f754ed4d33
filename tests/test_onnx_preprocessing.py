"""Files that take raw pixels."""

import json

import numpy as np
import onnx
import pytest
from exports import chain, graph, random, run

import convlayers as cl
from convlayers.errors import ConfigError, ExportError, ExportMismatchError, ShapeError
from convlayers.onnx import OnnxModel
from convlayers.onnx.compare import draw, relative_error
from convlayers.onnx.preprocessing import _Pixels
from convlayers.onnx.session import newest_opset

IMAGENET = {"mean": [123.675, 116.28, 103.53], "scale": [1 / 58.395, 1 / 57.12, 1 / 57.375]}


def classifier():
    layers = [
        cl.Conv2d(6, 3, padding="same", stride=2),
        cl.BatchNorm2d(),
        cl.ReLU(),
        cl.GlobalAvgPool2d(),
        cl.Flatten(),
        cl.Dense(4),
    ]
    return cl.Sequential(layers, input_shape=(3, 9, 8), seed=2)


def pixels(*shape):
    return np.random.default_rng(3).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("opset", [13, newest_opset()])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_raw_pixels_give_what_the_model_gives_for_prepared_ones(layout, opset, tmp_path):
    model, given = classifier(), pixels(5, 3, 9, 8)
    report = cl.export_onnx(model, tmp_path / "m.onnx", opset, preprocessing=cl.Preprocessing(**IMAGENET, layout=layout))
    mean, scale = (np.array(IMAGENET[name]).reshape(3, 1, 1) for name in ("mean", "scale"))
    expected = model(((given - mean) * scale).astype(np.float32))
    (y,) = run(tmp_path / "m.onnx", given.transpose(0, 2, 3, 1) if layout == "NHWC" else given)
    assert relative_error(y, expected) <= report.tolerance
    written = onnx.load(tmp_path / "m.onnx").graph
    assert written.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    sizes = [d.dim_param or d.dim_value for d in written.input[0].type.tensor_type.shape.dim]
    assert sizes == (["N", 9, 8, 3] if layout == "NHWC" else ["N", 3, 9, 8])
    operators = [node.op_type for node in written.node]
    assert operators[: operators.index("Conv")] == ["Cast", *["Transpose"] * (layout == "NHWC"), "Sub", "Mul"]
    assert set(model.parameters()) <= {tensor.name for tensor in written.initializer}
    assert cl.verify_onnx(tmp_path / "m.onnx").errors.keys() == {"output"}


def test_what_is_nothing_to_do_is_left_out(tmp_path):
    cl.export_onnx(classifier(), tmp_path / "m.onnx", preprocessing=cl.Preprocessing(layout="NCHW"))
    assert [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node][:3] == ["Cast", "Mul", "Conv"]


def test_softmax_and_labels(tmp_path):
    model, given = classifier(), pixels(5, 9, 8, 3)
    preprocessing = cl.Preprocessing(softmax=True, labels=["a", "b", "c", "d"])
    report = cl.export_onnx(model, tmp_path / "m.onnx", preprocessing=preprocessing)
    file = OnnxModel(tmp_path / "m.onnx")
    y = file.predict(given)
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-6)
    logits = model(given.transpose(0, 3, 1, 2) / np.float32(255))
    assert relative_error(y, cl.functional.softmax(logits, 1)) <= report.tolerance
    assert file.metadata["labels"] == ["a", "b", "c", "d"]
    expected = {"input": "uint8", "layout": "NHWC", "mean": 0.0, "scale": 1 / 255, "softmax": True}
    assert file.metadata["preprocessing"] == expected


def test_with_everything_else(tmp_path):
    model = classifier()
    options = {"fold_batchnorm": True, "dynamic_image": True, "certificate": True}
    cl.export_onnx(model, tmp_path / "m.onnx", preprocessing=cl.Preprocessing(**IMAGENET), **options)
    written = onnx.load(tmp_path / "m.onnx").graph
    sizes = [d.dim_param or d.dim_value for d in written.input[0].type.tensor_type.shape.dim]
    assert sizes == ["N", "height", "width", 3]
    assert run(tmp_path / "m.onnx", pixels(2, 13, 20, 3))[0].shape == (2, 4)
    assert cl.verify_onnx(tmp_path / "m.onnx").certificate
    layers = json.loads((tmp_path / "m.verify.json").read_text())["layers"]
    assert next(iter(layers)) == "preprocessing"


def test_names_that_are_taken(tmp_path):
    layers = [("preprocessing", cl.Conv2d(2, 3)), ("probabilities", cl.Flatten())]
    model = cl.Sequential(layers, input_shape=(1, 4, 4))
    cl.export_onnx(model, tmp_path / "m.onnx", preprocessing=cl.Preprocessing(softmax=True))
    names = {tensor.name for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert {"preprocessing.weight", "preprocessing.bias"} <= names


def test_a_mismatch_in_it_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(
        _Pixels, "to_onnx", lambda self, graph, x: graph.op("Transpose", graph.op("Cast", x, to=1), perm=[0, 3, 1, 2])
    )
    with pytest.raises(ExportMismatchError, match='_Pixels "preprocessing"'):
        cl.export_onnx(classifier(), tmp_path / "m.onnx", preprocessing=cl.Preprocessing(**IMAGENET))


def test_the_pixels_drawn_are_all_of_them():
    (x,) = draw(0, 7, [(50, 50, 3)], pixels=True)
    assert (x.dtype, x.min(), x.max()) == (np.uint8, 0, 255)


def test_a_plain_value_stays_metadata(tmp_path):
    cl.export_onnx(classifier(), tmp_path / "m.onnx", preprocessing={"scale": 2})
    assert OnnxModel(tmp_path / "m.onnx").input_shape == (3, 9, 8)
    assert run(tmp_path / "m.onnx", random(2, 3, 9, 8))[0].shape == (2, 4)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"mean": "0"}, "mean must be a finite number or one a channel; got '0'"),
        ({"mean": []}, "mean must be"),
        ({"mean": [0, float("nan")]}, "mean must be"),
        ({"scale": True}, "scale must be"),
        ({"scale": [1.0, 0]}, "a scale of 0"),
        ({"scale": None}, "scale must be"),
        ({"layout": "HWC"}, "layout must be one of NHWC, NCHW; got 'HWC'"),
        ({"softmax": "yes"}, "softmax must be"),
    ],
)
def test_values_that_are_no_preprocessing(bad, reason):
    with pytest.raises(ConfigError, match=reason):
        cl.Preprocessing(**bad)


@pytest.mark.parametrize(
    ("model", "given", "error", "reason"),
    [
        (chain(), {"mean": [1, 2, 3]}, ShapeError, "mean has 3 values, the images 2 channels"),
        (classifier(), {"labels": ["a"]}, ConfigError, "labels must name each"),
        (graph(), {}, ExportError, r"one input of images \(C, H, W\)"),
        (cl.Sequential([cl.Dense(2)], input_shape=(5,)), {}, ExportError, r"one input of images \(C, H, W\)"),
    ],
)
def test_models_that_it_does_not_fit(model, given, error, reason, tmp_path):
    with pytest.raises(error, match=reason):
        cl.export_onnx(model, tmp_path / "m.onnx", preprocessing=cl.Preprocessing(**given))
    assert not list(tmp_path.iterdir())


def test_softmax_of_several_outputs_is_refused(tmp_path):
    x = cl.Input((1, 4, 4))
    model = cl.Model(x, [cl.ReLU()(x), cl.Flatten()(x)])
    with pytest.raises(ExportError, match="one output; it has 2"):
        cl.export_onnx(model, tmp_path / "m.onnx", preprocessing=cl.Preprocessing(softmax=True))
