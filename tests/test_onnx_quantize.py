"""Files in eight bits: what is written, what the report says, and what is refused with nothing written."""

import logging
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from exports import convolution, foreign, identity, run
from onnx import TensorProto, helper, numpy_helper

import convlayers as cl
from convlayers import datasets
from convlayers.errors import (
    ArrayTypeError,
    ConfigError,
    DataError,
    ExportError,
    ExportMismatchError,
    FileAccessError,
    FileFormatError,
    MissingDependencyError,
    ShapeError,
)
from convlayers.onnx import OnnxModel, record
from convlayers.onnx.int8 import in_int8, is_quantized, output_steps, steps_apart
from convlayers.tolerance import tolerance


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits):
    """A network with batch normalization that knows the digits, as a file."""
    layers = [cl.Conv2d(8, 3, padding=1, bias=False), cl.BatchNorm2d(), cl.ReLU(), cl.MaxPool2d(2)]
    layers += [cl.Conv2d(16, 3, padding=1), cl.ReLU(), cl.Flatten(), cl.Dense(10)]
    model = cl.Sequential(layers, input_shape=(1, 8, 8), seed=0)
    cl.Trainer(model, optimizer=cl.Adam(5e-3)).fit((digits.x_train, digits.y_train), epochs=4, progress=False)
    path = tmp_path_factory.mktemp("trained") / "digits.onnx"
    cl.export_onnx(model, path, labels=digits.labels, preprocessing=digits.preprocessing)
    return path


@pytest.fixture
def model(trained, tmp_path):
    path = tmp_path / "digits.onnx"
    path.write_bytes(trained.read_bytes())
    return path


def noise(*shape):
    return np.random.default_rng(3).uniform(-1, 1, shape).astype(np.float32)


def only(path):
    """Whether a file is alone in its folder."""
    return list(path.parent.iterdir()) == [path]


def assert_same_check(a, b):
    """The same in all but the time."""
    assert replace(a, seconds=0.0) == replace(b, seconds=0.0)


# What is written


def test_a_trained_network_in_int8(model, digits):
    test = digits.x_test, digits.y_test
    report = cl.quantize_onnx(model, digits.x_train[:128], evaluation_data=test)
    target = model.with_name("digits.int8.onnx")
    assert report.path == str(target)
    before, after = OnnxModel(model).predict(digits.x_test), OnnxModel(target).predict(digits.x_test)
    accuracies = [float((y.argmax(axis=1) == digits.y_test).mean()) for y in (before, after)]
    assert [report.accuracy_before, report.accuracy_after] == accuracies
    assert accuracies[0] > 0.9
    assert accuracies[1] >= accuracies[0] - 0.01
    difference = np.abs(after - before.astype(np.float64)) / np.abs(before).max()
    assert (report.largest_difference, report.mean_difference) == pytest.approx((difference.max(), difference.mean()))
    assert report.largest_difference < 0.1
    assert (report.samples, report.evaluated, report.batch) == (128, len(digits.x_test), 16)
    assert (report.source, report.source_bytes) == (str(model), model.stat().st_size)
    assert report.bytes == target.stat().st_size < 0.6 * report.source_bytes
    assert min(report.seconds_before, report.seconds_after) > 0
    assert (report.quantized, report.weighted) == (3, 3)


def test_the_report_in_words(model, digits):
    report = cl.quantize_onnx(model, (digits.x_train[:64], digits.y_train[:64]))
    text = str(report)
    assert text.startswith(
        f"{report.path}: {model} in int8, 3 of 3 convolutions and matrix products, calibrated on 64 samples;"
    )
    assert f"accuracy {report.accuracy_after:.4f} instead of {report.accuracy_before:.4f}" in text
    assert "agree with its operators run one by one in float" in text
    assert "no labels, so no accuracy" in str(cl.quantize_onnx(model, digits.x_train[:64]))
    assert "\n" not in text


def test_weights_are_int8_by_channel_and_activations_uint8(model, digits):
    cl.quantize_onnx(model, digits.x_train[:32])
    proto = onnx.load(model.with_name("digits.int8.onnx"))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    weights = {name: array for name, array in constants.items() if array.dtype == np.int8 and array.ndim > 1}
    assert sorted(array.shape for array in weights.values()) == [(8, 1, 3, 3), (10, 256), (16, 8, 3, 3)]
    assert max(np.abs(array.astype(int)).max() for array in weights.values()) <= 64
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            assert constants[node.input[1]].shape == weights[node.input[0]].shape[:1]
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[2]].dtype == np.uint8
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    assert {entry.domain for entry in proto.opset_import} == {""}


def test_the_metadata_stays_and_the_record_of_other_weights_goes(model, digits):
    cl.quantize_onnx(model, digits.x_train[:32])
    kept = [{entry.key: entry.value for entry in onnx.load(path).metadata_props} for path in sorted(model.parent.iterdir())]
    int8, source = kept
    assert source.pop(record.KEY)
    assert int8 == source
    assert OnnxModel(model.with_name("digits.int8.onnx")).metadata["labels"] == digits.labels


def test_verify_runs_a_file_in_int8_in_two_ways(model, digits):
    made = cl.quantize_onnx(model, digits.x_train[:32])
    report = cl.verify_onnx(made.path)
    assert_same_check(report, made.check)
    assert report.judge == "its operators run one by one in float"
    assert report.batches == (1, 2, 7)
    (apart,) = steps_apart(onnx.load(made.path)).values()
    assert tolerance(np.float32) < report.tolerance <= tolerance(np.float32, 10_000) + apart


def test_verify_finds_integer_kernels_that_lose_sums(model, digits, monkeypatch):
    path = cl.quantize_onnx(model, digits.x_train[:32]).path
    honest = onnxruntime.InferenceSession.run

    def saturated(self, *arguments):
        results = honest(self, *arguments)
        whole = self.get_session_options().graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        return [np.minimum(y, y.max() - 1.1 * apart) for y in results] if whole else results

    (apart,) = steps_apart(onnx.load(path)).values()
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", saturated)
    with pytest.raises(ExportMismatchError, match='"output" of onnxruntime differs from its operators run one by one'):
        cl.verify_onnx(path)
    other = model.with_name("other.onnx")
    with pytest.raises(ExportMismatchError, match=r"other\.onnx"):
        cl.quantize_onnx(model, digits.x_train[:32], other)
    assert not other.exists()


def test_eight_bits_without_the_reduced_range(tmp_path):
    """Weights of one: no pair of products comes near what kernels of any processor lose."""
    weight = np.ones((2, 1, 1, 1), np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    ends = [("x", TensorProto.FLOAT, ["N", 1, 4, 4])], [("y", TensorProto.FLOAT, ["N", 2, 4, 4])]
    path = foreign(tmp_path, nodes, *ends, [("w", weight)])
    cl.quantize_onnx(path, noise(16, 1, 4, 4), reduce_range=False)
    tensors = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "foreign.int8.onnx").graph.initializer]
    assert max(np.abs(array.astype(int)).max() for array in tensors if array.dtype == np.int8) == 127


def test_the_same_file_from_the_same_samples(model, digits, tmp_path):
    targets = [tmp_path / name for name in ("a.onnx", "b.onnx")]
    for target in targets:
        cl.quantize_onnx(model, digits.x_train[:32], target)
    assert targets[0].read_bytes() == targets[1].read_bytes()


def test_a_class_for_each_pixel(tmp_path):
    path = convolution(tmp_path, shape=(3, 2, 3, 3))
    x = noise(24, 2, 5, 5)
    labels = OnnxModel(path).predict(x).argmax(axis=1)
    report = cl.quantize_onnx(path, (x, labels), max_drop=0.2)
    assert report.accuracy_before == 1
    assert 0.8 <= report.accuracy_after <= 1


def test_several_inputs_and_outputs(tmp_path):
    a, b = cl.Input((2, 6, 6)), cl.Input((2, 6, 6))
    y = cl.Add()(cl.Conv2d(2, 3, padding=1)(a), b)
    cl.export_onnx(cl.Model([a, b], [y, cl.Flatten()(y)], seed=0), tmp_path / "m.onnx")
    x = [noise(20, 2, 6, 6), noise(20, 2, 6, 6)[::-1]]
    report = cl.quantize_onnx(tmp_path / "m.onnx", x)
    assert report.check.errors.keys() == {"output_1", "output_2"}
    assert report.largest_difference < 0.05
    with pytest.raises(DataError, match=r"accuracy needs one output .*\(20, 2, 6, 6\), \(20, 72\)"):
        cl.quantize_onnx(tmp_path / "m.onnx", (x, np.zeros(20, int)))


def test_a_foreign_file_with_a_fixed_batch(tmp_path):
    path = convolution(tmp_path, batch=4)
    report = cl.quantize_onnx(path, noise(20, 2, 5, 5))
    assert (report.samples, report.batch, report.check.batches) == (20, 4, (4,))
    assert_same_check(cl.verify_onnx(report.path), report.check)
    with pytest.raises(ShapeError, match="batches of exactly 4"):
        cl.quantize_onnx(path, noise(18, 2, 5, 5))


def test_a_file_that_takes_bytes(tmp_path):
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), helper.make_node("Conv", ["f", "w"], ["y"])]
    ends = [("x", TensorProto.UINT8, ["N", 2, 5, 5])], [("y", TensorProto.FLOAT, ["N", 1, 3, 3])]
    path = foreign(tmp_path, nodes, *ends, [("w", noise(1, 2, 3, 3))])
    pixels = np.random.default_rng(4).integers(0, 256, (32, 2, 5, 5), dtype=np.uint8)
    report = cl.quantize_onnx(path, pixels)
    assert report.largest_difference < 0.05
    np.testing.assert_allclose(run(report.path, pixels)[0], run(path, pixels)[0], atol=0.05 * 255 * 18)
    assert_same_check(cl.verify_onnx(report.path), report.check)


def test_a_plug_in_s_function_is_quantized_within(tmp_path):
    """A local function holds the convolution; the file in int8 holds it in the open."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    body = helper.make_node("Conv", ["a", "b"], ["c"])
    function = helper.make_function("mine", "Block", ["a", "b"], ["c"], [body], opsets[:1])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["N", 1, 4, 4]), ("y", ["N", 2, 4, 4]))]
    node = helper.make_node("Block", ["x", "w"], ["y"], domain="mine")
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(noise(2, 1, 1, 1), "w")])
    onnx.save(helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    report = cl.quantize_onnx(tmp_path / "m.onnx", noise(16, 1, 4, 4))
    assert (report.quantized, report.weighted) == (1, 1)


# Nothing else is touched


def test_nothing_is_printed_and_logging_stays_as_it_was(model, digits, tmp_path):
    np.save(tmp_path / "x.npy", digits.x_train[:32])
    code = (
        "import logging, sys, numpy as np, convlayers as cl; cl.quantize_onnx(sys.argv[1], np.load(sys.argv[2])); "
        "assert not logging.getLogger().handlers and not logging.getLogger().filters; "
        "assert 'sympy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, model, tmp_path / "x.npy"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_other_log_messages_pass(model, digits, caplog, monkeypatch):
    from onnxruntime import quantization

    honest = quantization.quantize_static

    def talkative(*arguments, **options):
        logging.warning("of the program around it")
        return honest(*arguments, **options)

    monkeypatch.setattr(quantization, "quantize_static", talkative)
    cl.quantize_onnx(model, digits.x_train[:32])
    assert caplog.messages == ["of the program around it"]


# What is refused


def test_a_drop_past_what_is_allowed(model, digits):
    y = digits.y_test.copy()
    right = OnnxModel(model).predict(digits.x_test).argmax(axis=1)
    blurred = digits.x_train[:64] * np.float32(1e-3)  # ranges far below those to come
    with pytest.raises(ExportError, match=r"in int8 the accuracy on 359 samples is 0\.\d+ instead of 1\.0000.*allows 0\.25"):
        cl.quantize_onnx(model, blurred, evaluation_data=(digits.x_test, right), max_drop=0.25)
    assert only(model)
    report = cl.quantize_onnx(model, blurred, evaluation_data=(digits.x_test, y), max_drop=1)
    assert report.accuracy_before - report.accuracy_after > 0.25


@pytest.mark.parametrize("max_drop", [-0.1, 1.5, float("nan"), "1", True, None])
def test_a_drop_that_is_no_share(model, digits, max_drop):
    with pytest.raises(ConfigError, match="max_drop is a share of the samples, from 0 to 1"):
        cl.quantize_onnx(model, digits.x_train[:32], max_drop=max_drop)


def with_nan(x):
    x = x.copy()
    x[19, 0, 3, 4] = np.nan
    return x


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (lambda x, y: x[:15], DataError, "need 16 samples at least; got 15"),
        (lambda x, y: x[:0], DataError, "need 16 samples at least; got 0"),
        (lambda x, y: x[:32, 0], ShapeError, r"samples of shape \(1, 8, 8\); got \(32, 8, 8\)"),
        (lambda x, y: x[:32, :, 1:], ShapeError, r"samples of shape \(1, 8, 8\)"),
        (lambda x, y: x[:32].astype(complex), ArrayTypeError, "real numbers"),
        (lambda x, y: [x[:32], x[:32]], ShapeError, r"samples of shape \(1, 8, 8\); got \(2, 32"),
        (lambda x, y: with_nan(x[:32]), DataError, "calibration_data must be finite; sample 19 is not"),
        (lambda x, y: x[:32] + np.float32(np.inf), DataError, "calibration_data must be finite; sample 0 is not"),
        (lambda x, y: (x[:32], y[:31]), DataError, r"labels must be integers of shape \(32,\); got int64 of shape \(31,\)"),
        (lambda x, y: (x[:32], y[:32] * 1.0), DataError, "labels must be integers"),
        (lambda x, y: (x[:32], y[:32] - 1), DataError, r"from 0 to 9; got -1 at index \d+"),
        (lambda x, y: (x[:32], y[:32] + 1), DataError, r"from 0 to 9; got 10 at index \d+"),
        (lambda x, y: (x[:32],), DataError, r"calibration_data must be a tuple \(x, y\)"),
    ],
)
def test_calibration_data_that_cannot_be_used(model, digits, data, error, words):
    with pytest.raises(error, match=words):
        cl.quantize_onnx(model, data(digits.x_train, digits.y_train))
    assert only(model)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (lambda x, y: x, DataError, r"evaluation_data must be a tuple \(x, y\) of samples and labels; got ndarray"),
        (lambda x, y: (x[:0], y[:0]), DataError, "evaluation_data holds no samples"),
        (lambda x, y: (with_nan(x), y), DataError, "evaluation_data must be finite; sample 19"),
        (lambda x, y: (x, y[:-1]), DataError, "labels must be integers of shape"),
        (lambda x, y: (x[:, 0], y), ShapeError, "samples of shape"),
    ],
)
def test_evaluation_data_that_cannot_be_used(model, digits, data, error, words):
    with pytest.raises(error, match=words):
        cl.quantize_onnx(model, digits.x_train[:32], evaluation_data=data(digits.x_test, digits.y_test))
    assert only(model)


def test_outputs_that_are_not_finite(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["z"]), helper.make_node("Log", ["z"], ["y"])]
    ends = [("x", TensorProto.FLOAT, ["N", 1, 2, 2])], [("y", TensorProto.FLOAT, ["N", 1, 2, 2])]
    path = foreign(tmp_path, nodes, *ends, [("w", np.ones((1, 1, 1, 1), np.float32))])
    with pytest.raises(DataError, match="puts out NaN or infinity"):
        cl.quantize_onnx(path, noise(16, 1, 2, 2))


def test_a_file_of_images_of_any_size(tmp_path):
    layers = [cl.Conv2d(4, 3, padding=1), cl.ReLU(), cl.GlobalAvgPool2d(), cl.Flatten(), cl.Dense(2)]
    cl.export_onnx(cl.Sequential(layers, input_shape=(1, 8, 8)), tmp_path / "m.onnx", dynamic_image=True)
    with pytest.raises(ExportError, match=r"m\.int8\.onnx.*every axis behind the batch needs a fixed size"):
        cl.quantize_onnx(tmp_path / "m.onnx", noise(16, 1, 8, 8))
    assert only(tmp_path / "m.onnx")


def test_a_file_in_int8_is_not_quantized_again(model, digits):
    path = cl.quantize_onnx(model, digits.x_train[:32]).path
    with pytest.raises(ExportError, match=r"digits\.int8\.onnx is quantized already"):
        cl.quantize_onnx(path, digits.x_train[:32])


def test_a_file_of_integer_operators_is_quantized_already(tmp_path):
    nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
    ends = [("x", TensorProto.UINT8, ["N", 3])], [("y", TensorProto.INT32, ["N", 2])]
    path = foreign(tmp_path, nodes, *ends, [("w", np.ones((3, 2), np.uint8))])
    with pytest.raises(ExportError, match="is quantized already"):
        cl.quantize_onnx(path, np.zeros((16, 3), np.uint8))
    assert cl.verify_onnx(path).judge == "onnx's reference evaluator"


def double_weights(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    ends = [("x", TensorProto.DOUBLE, ["N", 3])], [("y", TensorProto.DOUBLE, ["N", 2])]
    return foreign(tmp_path, nodes, *ends, [("w", np.ones((3, 2)))])


def of_opset(path, version):
    proto = onnx.load(path)
    proto.opset_import[0].version = version
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize(
    ("make", "shape", "words"),
    [
        (identity, (16, 3), "no convolution and no matrix product"),
        (double_weights, (16, 3), "none of its weights"),
        (lambda folder: of_opset(convolution(folder), 12), (16, 2, 5, 5), "of opset 12.*came with opset 13"),
    ],
)
def test_files_with_nothing_to_quantize(tmp_path, make, shape, words):
    path = make(tmp_path)
    with pytest.raises(ExportError, match=rf"foreign\.onnx.*{words}"):
        cl.quantize_onnx(path, noise(*shape))
    assert only(path)


def test_a_failure_of_the_quantizer_is_an_error_of_ours(model, digits, monkeypatch):
    from onnxruntime import quantization

    def broken(*arguments, **options):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(quantization, "quantize_static", broken)
    with pytest.raises(ExportError, match=r"digits\.onnx: onnxruntime cannot quantize it: two lines"):
        cl.quantize_onnx(model, digits.x_train[:32])
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    with pytest.raises(MissingDependencyError, match=r"onnxruntime\.quantization, which is not installed"):
        cl.quantize_onnx(model, digits.x_train[:32])
    assert only(model)


def test_files_and_targets_that_cannot_be(model, digits, tmp_path):
    x = digits.x_train[:32]
    with pytest.raises(ConfigError, match=r"digits\.onnx is the float one"):
        cl.quantize_onnx(model, x, model)
    with pytest.raises(FileAccessError, match="cannot write"):
        cl.quantize_onnx(model, x, tmp_path / "none" / "m.onnx")
    with pytest.raises(FileAccessError, match="cannot read"):
        cl.quantize_onnx(tmp_path / "none.onnx", x)
    (tmp_path / "text.onnx").write_bytes(b"text")
    with pytest.raises(FileFormatError, match="not a whole ONNX file"):
        cl.quantize_onnx(tmp_path / "text.onnx", x)


def test_an_old_file_stays_where_a_new_one_is_refused(model, digits, tmp_path):
    target = tmp_path / "old.onnx"
    target.write_bytes(b"what was there")
    with pytest.raises(DataError):
        cl.quantize_onnx(model, digits.x_train[:3], target)
    assert target.read_bytes() == b"what was there"


# How files in int8 are told


def test_what_is_quantized(model, digits):
    float_file, int8 = onnx.load(model), onnx.load(cl.quantize_onnx(model, digits.x_train[:32]).path)
    assert (is_quantized(float_file), is_quantized(int8)) == (False, True)
    assert (in_int8(float_file), in_int8(int8)) == (0, 3)
    assert output_steps(float_file) == steps_apart(float_file) == {"output": 0}
    assert steps_apart(int8)["output"] == pytest.approx(output_steps(int8)["output"] * (2 + 3**0.5))


def test_the_step_of_an_output_behind_float_operators(tmp_path):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "coarse", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "coarse", "zero"], ["d"]),
        helper.make_node("Relu", ["d"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "fine", "zero"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "fine", "zero"], ["d2"]),
        helper.make_node("Add", ["d2", "d2"], ["y"]),
    ]
    constants = [("coarse", np.float32(0.5)), ("fine", np.float32(0.25)), ("zero", np.uint8(128))]
    path = identity(tmp_path, nodes=nodes)
    proto = onnx.load(path)
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in constants)
    assert output_steps(proto) == {"y": 0.25}
