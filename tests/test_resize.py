"""Resizing, borders along any axis and local response normalization: against ONNX's reference and onnxruntime, and by hand."""

import math

import numpy as np
import onnx
import pytest
from exports import around, run
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import convlayers as cl
from convlayers import functional
from convlayers.errors import ArrayTypeError, ConfigError, ShapeError
from convlayers.functional import NEAREST_MODES, RESIZE_MODES, TRANSFORMATIONS
from convlayers.onnx.session import newest_opset
from convlayers.randomness import generator
from convlayers.testing import assert_close
from convlayers.testing.machine import same_bits

_CROPS = "tf_crop_and_resize"


def random_resize(rng, *, whole):
    """A configuration and the sizes that it is for; `whole`: no scale leaves a fraction of a value."""
    rank = int(rng.integers(1, 4))
    size = tuple(rng.integers(1, 8, rank).tolist())
    config = {name: str(rng.choice(choices)) for name, choices in _CHOICES.items()}
    for name in ("exclude_outside", "antialias"):
        config[name] = config["mode"] != "nearest" and bool(rng.random() < 0.3)
    if whole or rng.random() < 0.5:
        config["sizes"] = rng.integers(1, 12, rank).tolist()
    else:
        config["scales"] = [float(np.float32(s)) for s in rng.choice([0.6, 0.7, 0.9, 1, 1.3, 2, 2.5], rank)]
        size = tuple(n + 1 for n in size)
    if config["coordinate_transformation_mode"] == _CROPS:
        starts, ends = rng.uniform(-0.2, 0.5, rank), rng.uniform(0.5, 1.2, rank)
        config |= {"roi": np.float32([*starts, *ends]).tolist(), "extrapolation_value": 7.5}
    return config, size


_CHOICES = {"mode": RESIZE_MODES, "coordinate_transformation_mode": TRANSFORMATIONS, "nearest_mode": NEAREST_MODES}


def operator(config, size):
    """ONNX's operator of that configuration, over the axes behind two."""
    scales, sizes, roi = (config.get(name) for name in ("scales", "sizes", "roi"))
    given = {"roi": (roi, np.float32), "scales": (scales, np.float32), "sizes": (sizes, np.int64)}
    constants = [onnx.numpy_helper.from_array(np.array(v, t), name) for name, (v, t) in given.items() if v is not None]
    names = [name if value is not None else "" for name, (value, _) in given.items()]
    options = {k: int(v) if isinstance(v, bool) else v for k, v in config.items() if k not in given}
    node = helper.make_node("Resize", ["x", *names], ["y"], axes=list(range(2, 2 + len(size))), **options)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["N", 2, *size]), ("y", None))]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def test_every_rule_is_that_of_onnxs_reference(tmp_path):
    """Which of two neighbours is nearest is decided in float32, by onnxruntime; the reference has float64."""
    rng = np.random.default_rng(3)
    for _ in range(250):
        config, size = random_resize(rng, whole=False)
        layer, x = cl.Resize(**config), rng.standard_normal((2, 2, *size)).astype(np.float32)
        y, _ = layer.forward(x, training=False)
        rule = config["coordinate_transformation_mode"]
        # Where a length has a fraction the reference loses a value to rounding; for one output PyTorch's rule is 0.
        if (rule == "half_pixel_symmetric" and "scales" in config) or (rule == "pytorch_half_pixel" and 1 in y.shape[2:]):
            continue
        if config["mode"] == "nearest" and rule not in ("align_corners", _CROPS):  # for which onnxruntime rounds the length
            onnx.save(operator(config, size), tmp_path / "m.onnx")
            (expected,) = run(tmp_path / "m.onnx", x)
        else:
            (expected,) = ReferenceEvaluator(operator(config, size)).run(None, {"x": x})
        assert_close(y, expected, 64, f"{layer!r} on {size}")


def test_onnxruntime_places_symmetric_halves_alike(tmp_path):
    rng = np.random.default_rng(4)
    for mode in ("nearest", "linear", "cubic"):
        config = {"mode": mode, "scales": [0.7, 2.5], "coordinate_transformation_mode": "half_pixel_symmetric"}
        x = rng.standard_normal((2, 2, 7, 5)).astype(np.float32)
        onnx.save(operator(config, (7, 5)), tmp_path / "m.onnx")
        assert_close(cl.Resize(**config).forward(x, training=False)[0], run(tmp_path / "m.onnx", x)[0], 64, mode)


@pytest.mark.parametrize("opset", [13, 18, newest_opset()])
def test_every_rule_is_exported(opset, tmp_path):
    """The export itself compares with onnxruntime."""
    rng = np.random.default_rng(opset)
    for _ in range(25):
        config, size = random_resize(rng, whole=bool(rng.random() < 0.5))
        cl.export_onnx(around(cl.Resize(**config), (2, *size)), tmp_path / "m.onnx", opset)


@pytest.mark.parametrize(
    ("layer", "shape", "operators"),
    [
        (cl.Resize(scales=[2, 4]), (2, 3, 3), ["Resize"]),
        (cl.Resize(sizes=[6, 2], mode="nearest"), (2, 3, 4), ["Resize"]),
        (cl.Resize(sizes=[6], mode="cubic"), (2, 3), ["MatMul"]),
        (cl.Resize(scales=[3, 3], mode="nearest"), (2, 3, 3), ["Gather", "Gather"]),
        (cl.Resize(sizes=[5, 5]), (2, 3, 3), ["MatMul", "MatMul"]),
        (cl.PadAxes([1, 1], [1]), (3, 4), ["Pad"]),
        (cl.PadAxes([1, -1], [1], mode="replicate"), (3, 4), ["Gather"]),
    ],
)
def test_operators_where_onnxruntime_is_exact_and_maps_elsewhere(layer, shape, operators, tmp_path):
    cl.export_onnx(around(layer, shape), tmp_path / "m.onnx")
    assert [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node] == operators


def test_resized_by_hand():
    x = np.array([[[1.0, 3.0]]])
    for config, expected in (
        ({"scales": [2]}, [1, 1.5, 2.5, 3]),
        ({"sizes": [3], "coordinate_transformation_mode": "align_corners"}, [1, 2, 3]),
        ({"scales": [2], "coordinate_transformation_mode": "asymmetric"}, [1, 2, 3, 3]),
        ({"scales": [2], "mode": "nearest", "coordinate_transformation_mode": "asymmetric"}, [1, 1, 3, 3]),
        ({"sizes": [1], "antialias": True}, [2]),
    ):
        np.testing.assert_allclose(cl.Resize(**config).forward(x, training=False)[0], [[expected]], rtol=1e-15)


def test_all_axes_of_a_sample_or_those_behind_its_channels():
    assert cl.Resize(scales=[2, 1, 0.5]).build((4, 3, 5), generator(0, "test")) == (8, 3, 2)
    assert cl.Resize(scales=[1, 0.5]).build((4, 3, 5), generator(0, "test")) == (4, 3, 2)


@pytest.mark.parametrize(("policy", "expected"), [("stretch", (8, 8)), ("not_larger", (4, 8)), ("not_smaller", (8, 16))])
def test_the_aspect_ratio(policy, expected):
    layer = cl.Resize(sizes=[8, 8], keep_aspect_ratio_policy=policy)
    assert layer.build((1, 3, 6), generator(0, "test")) == (1, *expected)


def test_a_scale_multiplies_in_float32():
    """0.7 of 10 is 7, though as the float32 nearest to 0.7 and in float64 it would be 6.9999999."""
    assert cl.Resize(scales=[float(np.float32(0.7))]).build((1, 10), generator(0, "test")) == (1, 7)


def test_what_is_not_finite_stays_where_it_is_read():
    x = np.zeros((1, 1, 5), np.float32)
    x[0, 0, 2] = np.nan
    y, _ = cl.Resize(scales=[2]).forward(x, training=False)
    np.testing.assert_array_equal(np.isnan(y[0, 0]), [False] * 3 + [True] * 4 + [False] * 3)
    y, _ = cl.Resize(scales=[2], coordinate_transformation_mode="asymmetric").forward(x, training=False)
    np.testing.assert_array_equal(np.isnan(y[0, 0]), [False] * 3 + [True] * 3 + [False] * 4)


def test_nearest_values_keep_their_bits():
    x = np.array([-0.0, 1e-40, np.inf, np.pi], np.float32).reshape(1, 1, 4)
    assert same_bits(cl.Resize(scales=[2], mode="nearest").forward(x, training=False)[0], x.repeat(2, axis=2))


# Borders along any axis


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "wrap"])
def test_borders_are_numpys(mode):
    rng = np.random.default_rng(5)
    for _ in range(20):
        shape = tuple(rng.integers(1, 5, 3).tolist())
        pads = rng.integers(0, 9, 6).tolist()
        x = rng.standard_normal((2, *shape))
        y, _ = cl.PadAxes(pads, mode=mode).forward(x, training=False)
        expected = np.pad(x, [(0, 0), *zip(pads[:3], pads[3:], strict=True)], mode="edge" if mode == "replicate" else mode)
        np.testing.assert_array_equal(y, expected, err_msg=f"{mode} {pads} around {shape}")


def test_an_axis_is_cropped_before_it_gets_a_border():
    x = np.arange(1.0, 6.0).reshape(1, 5)
    for mode, expected in (("constant", [0, 0, 2, 3, 4, 5]), ("replicate", [2, 2, 2, 3, 4, 5]), ("wrap", [4, 5, 2, 3, 4, 5])):
        front = cl.PadAxes([2, 0], mode=mode).forward(cl.PadAxes([-1, 0]).forward(x, training=False)[0], training=False)[0]
        np.testing.assert_array_equal(front, [expected])
    y, _ = cl.PadAxes([2, -3], mode="reflect").forward(x, training=False)
    np.testing.assert_array_equal(y, [[1, 2, 1, 2]])


@pytest.mark.parametrize("opset", [13, newest_opset()])
def test_borders_in_onnxruntime(opset, tmp_path):
    rng = np.random.default_rng(6)
    for mode in ("constant", "reflect", "replicate", "wrap"):
        for _ in range(8):
            shape = tuple(rng.integers(2, 5, 2).tolist())
            layer = cl.PadAxes(rng.integers(-1, 6, 4).tolist(), mode=mode, value=1.5 if mode == "constant" else 0)
            try:
                model = around(layer, shape)
            except ShapeError:  # nothing is left
                continue
            cl.export_onnx(model, tmp_path / "m.onnx", opset)


# Local response normalization


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
def test_lrn_is_onnxs(size):
    rng = np.random.default_rng(size)
    # ONNX's reference counts the images for the channels.
    x = rng.standard_normal((6, 6, 3, 4)).astype(np.float32)
    options = {"alpha": 0.5, "beta": 0.8, "bias": 1.5}
    node = helper.make_node("LRN", ["x"], ["y"], size=size, **options)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 17)])
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert_close(cl.LRN(size, **options).forward(x, training=False)[0], expected, size, f"size {size}")


# What is refused


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cl.Resize(), ConfigError, "takes scales or sizes, one of the two; got None and None"),
        (lambda: cl.Resize(scales=[2], sizes=[2]), ConfigError, r"one of the two; got \[2\] and \[2\]"),
        (lambda: cl.Resize(scales=2), ConfigError, "scales must be a list of finite numbers above 0; got 2"),
        (lambda: cl.Resize(scales=[0.0]), ConfigError, "an entry of scales must be .* above 0; got 0.0"),
        (lambda: cl.Resize(scales=[math.nan]), ConfigError, "above 0; got nan"),
        (lambda: cl.Resize(sizes=[]), ConfigError, "sizes must be a list of sizes of at least 1"),
        (lambda: cl.Resize(sizes=[3, 0]), ConfigError, r"sizes must be a list of sizes of at least 1; got \[3, 0\]"),
        (lambda: cl.Resize(scales=[2], mode="area"), ConfigError, "mode is one of nearest, linear, cubic; got 'area'"),
        (lambda: cl.Resize(scales=[2], nearest_mode="up"), ConfigError, "nearest_mode is one of round_prefer_floor"),
        (lambda: cl.Resize(scales=[2], coordinate_transformation_mode="x"), ConfigError, "coordinate_.* is one of half_pixel,"),
        (lambda: cl.Resize(scales=[2], keep_aspect_ratio_policy="not_larger"), ConfigError, "keep_aspect_.* is for sizes"),
        (lambda: cl.Resize(scales=[2], mode="nearest", antialias=True), ConfigError, 'antialias is for .*; got mode "nearest"'),
        (lambda: cl.Resize(scales=[2], antialias=1), ArrayTypeError, "antialias is True or False; got 1"),
        (lambda: cl.Resize(scales=[2], roi=[0, 1]), ConfigError, "roi is for tf_crop_and_resize, which needs it"),
        (lambda: cl.Resize(sizes=[2], coordinate_transformation_mode=_CROPS), ConfigError, "got 'tf_crop_and_resize' and None"),
        (
            lambda: cl.Resize(sizes=[2], coordinate_transformation_mode=_CROPS, roi=[0.0]),
            ConfigError,
            r"roi must have all starts and then all ends of 1 axes; got \[0.0\]",
        ),
        (lambda: cl.PadAxes([1]), ConfigError, r"pads must be a list of ints, one before and one behind each axis; got \[1\]"),
        (lambda: cl.PadAxes([1, 1], axes=[1, 2]), ConfigError, r"one behind each axis; got \[1, 1\]"),
        (lambda: cl.PadAxes([1, 1], axes=[0]), ConfigError, r"0 is the batch; got \[0\]"),
        (lambda: cl.PadAxes([1, 1], mode="edge"), ConfigError, "mode is one of constant, reflect, replicate, wrap; got 'edge'"),
        (lambda: cl.PadAxes([1, 1], mode="wrap", value=1), ConfigError, 'value is that of mode "constant"; got 1'),
        (lambda: cl.LRN(0), ConfigError, "size must be at least 1; got 0"),
        (lambda: cl.LRN(3, alpha=-1), ConfigError, "alpha must be at least 0 and finite; got -1"),
        (lambda: cl.LRN(3, bias=0), ConfigError, "bias must be greater than 0 and finite; got 0"),
    ],
)
def test_arguments_out_of_range(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (cl.Resize(scales=[2]), (3, 4, 5), r"resizes 1 axes, all of a sample or all behind its channels; .* \(3, 4, 5\)"),
        (cl.Resize(scales=[0.2, 1]), (3, 4, 5), r"leaves nothing of an axis: \(4, 5\) become \(0, 5\)"),
        (cl.PadAxes([1, 1]), (3, 4), r"pads 1 axes; got a sample of shape \(3, 4\)"),
        (cl.PadAxes([1, 1], axes=[3]), (3, 4), r"axis 3 is outside a batch of samples of shape \(3, 4\)"),
        (cl.PadAxes([-2, -1], axes=[1]), (3, 4), "pads -2 and -1 leave nothing of axis 1, which has 3"),
        (cl.LRN(3), (5,), r"takes samples \(C, ...\) with a spatial axis or more"),
    ],
)
def test_inputs_that_do_not_fit(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        layer.build(shape, generator(0, "test"))


def test_gradients_have_the_outputs_shape():
    x = np.zeros((2, 3, 4), np.float32)
    taps = functional.border_taps(4, 1, 1, "wrap")
    with pytest.raises(ShapeError, match=r"resample: dy must have the output's shape \(2, 3, 6\); got \(2, 3, 4\)"):
        functional.resample_backward(x, x.shape, {2: taps.transposed()})
    with pytest.raises(ShapeError, match=r"lrn: dy must have the output's shape \(2, 3, 4\); got \(2, 3, 2\)"):
        functional.lrn_backward(x[..., :2], x, x, x, 3, 1.0, 1.0)
