"""Poolings of random geometry as ONNX: onnxruntime gives what the layer gives."""

import numpy as np
import onnx
import pytest
from exports import around

import convlayers as cl
from convlayers.errors import ShapeError
from convlayers.onnx import OnnxModel
from convlayers.onnx.compare import relative_error
from convlayers.onnx.session import newest_opset

_KINDS = {
    "max_pool1d": 1,
    "max_pool3d": 3,
    "min_pool2d": 2,
    "avg_pool1d": 1,
    "avg_pool3d": 3,
    "lp_pool1d": 1,
    "lp_pool2d": 2,
    "lp_pool3d": 3,
    "avg_pool2d": 2,
    "mixed_pool2d": 2,
    "stochastic_pool2d": 2,
}


def _agree(layer, shape, rng, path, opset=17):
    """Export, which compares; then other inputs than those of the export, zeros among them."""
    model = around(layer, shape)
    report = cl.export_onnx(model, path, opset)
    x = np.maximum(rng.standard_normal((3, *shape)), -0.5).astype(np.float32) + np.float32(0.5)
    error = relative_error(OnnxModel(path).predict(x), model(x))
    assert error <= report.tolerance, f"{layer!r} on {shape}: off by {error:.3g}"


def _configuration(kind, rank, rng):
    kernel, stride, dilation = ([int(v) for v in rng.integers(1, top, rank)] for top in (4, 4, 3))
    padding = "same" if rng.random() < 0.3 else [[int(v) for v in rng.integers(0, 3, 2)] for _ in range(rank)]
    config = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": bool(rng.random() < 0.5)}
    if kind.startswith(("max", "min", "avg", "lp")):
        config["dilation"] = dilation
    if kind.startswith(("avg", "mixed")):
        config["count_include_pad"] = bool(rng.random() < 0.5)
    if kind.startswith("lp"):
        config["p"] = float(rng.choice([1, 2, 3, 2.5, 7]))
    if kind.startswith("mixed"):
        config["mix"] = "learned" if rng.random() < 0.5 else float(rng.random())
    return config


@pytest.mark.parametrize("opset", [17, newest_opset()])
@pytest.mark.parametrize(("kind", "rank"), _KINDS.items())
def test_random_windows(kind, rank, opset, tmp_path):
    rng, done = np.random.default_rng(7), 0
    while done < 15:
        config = _configuration(kind, rank, rng)
        shape = (2, *(int(v) for v in rng.integers(1, 9, rank)))
        try:
            around(cl.create_layer(kind, **config), shape)
        except ShapeError:  # no window fits, or one holds padding alone
            continue
        _agree(cl.create_layer(kind, **config), shape, rng, tmp_path / "m.onnx", opset)
        done += 1


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_random_adaptive_sizes(kind, rank, tmp_path):
    rng = np.random.default_rng(8)
    for _ in range(10):
        size = [int(n) for n in rng.integers(1, 9, rank)]
        output = [int(rng.integers(1, n + 1)) for n in size]
        _agree(cl.create_layer(f"adaptive_{kind}_pool{rank}d", output_size=output), (2, *size), rng, tmp_path / "m.onnx")


def test_the_learned_mix_keeps_its_name(tmp_path):
    model = cl.Sequential([("pool", cl.MixedPool2d(2, mix="learned"))], input_shape=(1, 4, 4))
    model.parameters()["pool.mix_logit"][:] = 0.7
    cl.export_onnx(model, tmp_path / "m.onnx")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer}
    np.testing.assert_array_equal(constants["pool.mix_logit"], np.float32([0.7]))


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_sizes_that_divide_need_one_operator(kind, tmp_path):
    layer = cl.create_layer(f"adaptive_{kind}_pool2d", output_size=[2, 3])
    cl.export_onnx(around(layer, (2, 4, 9)), tmp_path / "m.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert operators == ["MaxPool" if kind == "max" else "AveragePool"]


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_an_infinity_stays_in_the_windows_that_hold_it(kind, tmp_path):
    """Windows of unequal length are filled up, and what fills them must not meet an infinity as a product."""
    model = around(cl.create_layer(f"adaptive_{kind}_pool2d", output_size=[2, 3]), (1, 5, 7))
    cl.export_onnx(model, tmp_path / "m.onnx")
    x = np.random.default_rng(9).standard_normal((4, 1, 5, 7)).astype(np.float32)
    x[0, 0, 2, 2], x[1, 0, 4, 6] = np.inf, -np.inf
    np.testing.assert_allclose(OnnxModel(tmp_path / "m.onnx").predict(x), model(x), rtol=1e-5, atol=1e-6)
