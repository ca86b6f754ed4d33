"""Operators in the forms that other programs write: what onnxruntime computes of them, and what is refused."""

import numpy as np
import pytest
from imports import agreed, bytes_of, weights

import convlayers as cl
from convlayers.errors import OnnxImportError

CORNERS = {"coordinate_transformation_mode": "align_corners"}
TENSORFLOW = {"mode": "nearest", "coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"}


def resize(opset, scales, **options):
    """Resize of images (2, 7, 5)."""
    given = "x s" if opset == 10 else "x r s"
    constants = {"s": np.float32([1, 1, *scales]), "r": np.float32([])}
    return bytes_of([("Resize", given, "y", options)], (2, 7, 5), constants, opset)


@pytest.mark.parametrize(
    ("opset", "scales", "options"),
    [
        # Until opset 10 the nearest pixel is the next one where an axis shrinks, and the one before where it grows.
        (10, (0.5, 0.7), {"mode": "nearest"}),
        (10, (0.7, 2.3), {"mode": "nearest"}),
        (10, (0.7, 2.3), {"mode": "linear"}),
        (11, (2, 3), TENSORFLOW),
        (11, (0.6, 2.3), TENSORFLOW),
        # PyTorch's align_corners, where the scales leave a part of a pixel.
        (11, (1.5, 2.3), {"mode": "linear", **CORNERS}),
        (17, (0.7, 0.5), {"mode": "cubic", **CORNERS}),
        (17, (1.5, 0.7), {"mode": "nearest", "nearest_mode": "ceil", **CORNERS}),
        # In the middle of two pixels, as float32 rounds it.
        (17, (2.3, 1.5), {"mode": "nearest"}),
        (17, (0.7, 0.7), {"mode": "nearest", "coordinate_transformation_mode": "pytorch_half_pixel"}),
    ],
)
def test_resizing_as_it_was_in_each_opset(opset, scales, options):
    agreed(resize(opset, scales, **options), (2, 7, 5))


@pytest.mark.parametrize(
    ("opset", "axis"), [(10, None), (13, 0), (18, 1), (19, 0), (21, 1)], ids=lambda v: "whole" if v is None else str(v)
)
def test_quantized_weights_are_read_at_every_opset(opset, axis):
    rng = np.random.default_rng(opset)
    count = () if axis is None else ((4, 3)[axis],)
    constants = {
        "q": rng.integers(-128, 128, (4, 3, 2, 2)).astype(np.int8),
        "scale": rng.uniform(0.01, 0.1, count).astype(np.float32),
        "zero": rng.integers(-9, 9, count).astype(np.int8),
    }
    options = {} if axis is None else {"axis": axis}
    nodes = [("DequantizeLinear", "q scale zero", "w", options), ("Conv", "x w", "y")]
    agreed(bytes_of(nodes, (3, 5, 6), constants, opset), (3, 5, 6))


def test_a_normalization_that_adds_nothing_to_its_variance():
    vectors = {name: np.abs(weights(3, seed=i)) + 0.1 for i, name in enumerate("sbmv")}
    data = bytes_of([("BatchNormalization", "x s b m v", "y", {"epsilon": 0.0})], (3, 4, 5), vectors)
    assert agreed(data, (3, 4, 5)).steps[0].layer.eps > 0


@pytest.mark.parametrize("shape", [(5,), (1, 5), (1, 1, 5), (4, 5), (1, 4, 1)])
def test_the_scale_of_a_layer_normalization_is_broadcast(shape):
    nodes = [("LayerNormalization", "x w b", "y", {"axis": -2})]
    agreed(bytes_of(nodes, (4, 5), {"w": weights(*shape), "b": weights(4, 5)}), (4, 5))


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)])
def test_rows_times_a_vector_give_a_number_each(shape):
    model = agreed(bytes_of([("MatMul", "x w", "y")], shape, {"w": weights(5)}), shape)
    assert model.output_shape == shape[:-1]


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"])
@pytest.mark.parametrize(("axes", "keepdims"), [([1], 1), ([1], 0), ([-1, 2], 0), ([2], 1), ([1, 2, 3], 1)])
def test_norms_and_extremes(operator, axes, keepdims):
    old = bytes_of([(operator, "x", "y", {"axes": axes, "keepdims": keepdims})], (3, 4, 5))
    new = bytes_of([(operator, "x a", "y", {"keepdims": keepdims})], (3, 4, 5), {"a": np.array(axes)}, opset=18)
    for data in (old, new):
        agreed(data, (3, 4, 5))


def test_a_vector_of_zeros_has_a_norm_and_a_gradient():
    model = cl.import_onnx(bytes_of([("ReduceL2", "x", "y", {"axes": [1]})], (3,)))
    y, tape = model.forward(np.zeros((2, 3), np.float32), training=True)
    assert not y.any()
    assert not model.backward(np.ones_like(y), tape).any()


def test_two_settings_of_one_weight_are_two_layers():
    nodes = [
        ("Conv", "x w", "a", {"pads": [1, 1, 1, 1]}),
        ("Conv", "a w", "b", {"strides": [2, 2]}),
        ("Conv", "a w", "c"),
        ("Conv", "b w", "d"),
        ("Flatten", "c", "f"),
        ("Flatten", "d", "g"),
        ("Concat", "f g", "y", {"axis": 1}),
    ]
    model = agreed(bytes_of(nodes, (2, 9, 9), {"w": weights(2, 2, 3, 3)}), (2, 9, 9))
    layers = {step.name: step.layer for step in model.steps}
    assert layers["c"] is layers["d"]  # both without settings, for two sizes of image
    assert len({id(layers[name]) for name in "abcd"}) == 3


def test_one_weight_in_two_operators_is_one_parameter():
    nodes = [("Mul", "x k", "a"), ("MaxPool", "a", "b", {"kernel_shape": [2, 2]}), ("Sub", "k b", "y")]
    model = agreed(bytes_of(nodes, (3, 4, 5), {"k": weights(3, 1, 1)}), (3, 4, 5))
    assert list(model.parameters()) == ["a/k.value"]


def test_one_array_as_scale_and_as_bias_is_two_parameters():
    data = bytes_of([("BatchNormalization", "x s s s v", "y")], (3, 2, 2), {"s": weights(3), "v": np.abs(weights(3))})
    layer = agreed(data, (3, 2, 2)).steps[0].layer
    arrays = [*layer.params.values(), *layer.buffers.values()]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def conv_network():
    """Channels last, squeeze and excitation, a bias behind each product; smooth, for differences."""
    nodes = [
        ("Transpose", "x", "t", {"perm": [0, 3, 1, 2]}),
        ("Conv", "t w", "c", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ("Add", "c b", "d"),
        ("BatchNormalization", "d s s s v", "n"),
        ("Softplus", "n", "r"),
        ("GlobalAveragePool", "r", "p"),
        ("Conv", "p u", "q"),
        ("Sigmoid", "q", "g"),
        ("Mul", "g r", "e"),
        ("Transpose", "e", "l", {"perm": [0, 2, 3, 1]}),
        ("MatMul", "l k", "m"),
        ("Add", "s m", "o"),
        ("Sigmoid", "o", "h"),
        ("Mul", "o h", "y"),
    ]
    constants = {"w": weights(4, 3, 3, 3), "b": weights(4, 1, 1), "s": weights(4), "v": np.abs(weights(4)) + 0.5}
    return bytes_of(nodes, (6, 5, 3), {**constants, "u": weights(4, 4, 1, 1), "k": weights(4, 4)})


def test_gradients_of_an_imported_network_are_those_of_central_differences():
    model = agreed(conv_network(), (6, 5, 3))
    for _, layer in model.layers():
        for arrays in (layer.params, layer.grads, layer.buffers):
            arrays.update({key: array.astype(np.float64) for key, array in arrays.items()})
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 6, 5, 3))
    y, tape = model.forward(x, training=False)
    dy = rng.standard_normal(y.shape)
    dx = model.backward(dy, tape)
    gradients = {"x": dx, **model.gradients()}
    for name, array in {"x": x, **model.parameters()}.items():
        way, at, ends = rng.standard_normal(array.shape), array.copy(), []
        for step in (1e-5, -1e-5):
            array[...] = at + step * way
            ends.append((model.forward(x, training=False)[0] * dy).sum())
        array[...] = at
        expected = (ends[0] - ends[1]) / 2e-5
        assert np.isclose((gradients[name] * way).sum(), expected, rtol=1e-7, atol=1e-7), name


def kinds(model):
    return [type(step.layer).__name__ for step in model.steps]


@pytest.mark.parametrize(
    ("node", "weight", "bias"),
    [
        (("MatMul", "x w", "h"), (6, 4), (4,)),
        (("MatMul", "x w", "h"), (6, 4), (1, 1, 1, 4)),
        (("MatMul", "x w", "h"), (6, 1), (1,)),
        (("Conv", "x w", "h"), (4, 3, 1, 2), (4, 1, 1)),
        (("Conv", "x w", "h", {"strides": [2, 1]}), (4, 3, 1, 2), (1, 4, 1, 1)),
        (("Conv", "x w", "h"), (1, 3, 2, 2), (1, 1, 1)),
        (("ConvTranspose", "x w", "h"), (3, 2, 2, 2), (2, 1, 1)),
    ],
)
@pytest.mark.parametrize("order", ["h b", "b h"])
def test_a_bias_that_is_added_is_its_layer_s(node, weight, bias, order):
    data = bytes_of([node, ("Add", order, "y")], (3, 5, 6), {"w": weights(*weight), "b": weights(*bias)})
    model = agreed(data, (3, 5, 6))
    assert list(model.parameters()) == ["h.weight", "h.bias"]
    assert len(model.steps) == 1


@pytest.mark.parametrize(
    ("nodes", "bias", "layers"),
    [
        # Another reads the product; each value has its own; each row; a difference; the weight stands in a second place.
        ([("MatMul", "x w", "h"), ("Add", "h b", "a"), ("Mul", "a h", "y")], (6,), ["Dense", "Parameter", "Add", "Multiply"]),
        ([("MatMul", "x w", "h"), ("Add", "h b", "y")], (5, 6), ["Dense", "Parameter", "Add"]),
        ([("MatMul", "x w", "h"), ("Add", "h b", "y")], (5, 1), ["Dense", "Parameter", "Add"]),
        ([("MatMul", "x w", "h"), ("Sub", "h b", "y")], (6,), ["Dense", "Parameter", "Subtract"]),
        (
            [("MatMul", "x w", "h"), ("Relu", "h", "r"), ("MatMul", "r w", "g"), ("Add", "g b", "y")],
            (6,),
            ["Dense", "ReLU", "Dense", "Parameter", "Add"],
        ),
    ],
)
def test_what_is_no_bias_stays_as_it_is(nodes, bias, layers):
    model = agreed(bytes_of(nodes, (5, 6), {"w": weights(6, 6), "b": weights(*bias)}), (5, 6))
    assert sorted(kinds(model)) == sorted(layers)


def test_silu_in_two_operators_is_one_layer():
    silu = [("Sigmoid", "x", "s"), ("Mul", "s x", "y")]
    assert kinds(agreed(bytes_of(silu, (3, 4)), (3, 4))) == ["SiLU"]
    assert kinds(agreed(bytes_of([*silu[:1], ("Mul", "s x", "a"), ("Add", "a s", "y")], (3, 4)), (3, 4))) != ["SiLU", "Add"]


def test_rows_silu_and_biases_come_back_to_the_bit(tmp_path):
    x = cl.Input((4, 6), name="x")
    hidden = cl.SiLU()(cl.Dense(5)(x, name="fc"), name="act")
    model = cl.Model(x, cl.Dense(1)(hidden, name="head"), seed=1)
    cl.export_onnx(model, tmp_path / "m.onnx")
    again = cl.import_onnx(tmp_path / "m.onnx")
    assert [step.name for step in again.steps] == ["fc", "act", "head"]
    assert list(again.parameters()) == list(model.parameters())
    np.testing.assert_array_equal(again(weights(3, 4, 6)), model(weights(3, 4, 6)))


@pytest.mark.parametrize(
    ("node", "opset", "constants", "reason"),
    [
        (
            ("MaxPool", "x", "y", {"kernel_shape": [2, 2], "dilations": [2, 1], "auto_pad": "SAME_UPPER"}),
            17,
            {},
            r"MaxPool \"y\": auto_pad with dilations \[2, 1\].* write it out as pads",
        ),
        (
            ("ConvTranspose", "x w", "y", {"strides": [3, 3], "auto_pad": "SAME_LOWER"}),
            17,
            {"w": weights(3, 2, 2, 2)},
            "auto_pad SAME_LOWER makes 21 pixels, in onnxruntime 20; write output_shape out",
        ),
        (("ReduceMax", "x", "y", {"axes": [1, 2, 3], "keepdims": 0}), 17, {}, "it leaves a sample without an axis"),
        (("MatMul", "x w", "y"), 17, {"w": weights(4)}, r"its weight of shape \(4,\) does not fit 5 features"),
    ],
)
def test_what_means_two_things_or_fits_nowhere_is_refused(node, opset, constants, reason):
    data = bytes_of([node], (3, 7, 5), constants, opset)
    with pytest.raises(OnnxImportError, match=reason):
        cl.import_onnx(data)
