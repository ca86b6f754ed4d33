"""Models: construction and its errors, and the arrays that go in."""

import numpy as np
import pytest
from helpers import images, residual, small_cnn

import convlayers as cl
from convlayers.errors import ArrayTypeError, ConfigError, ShapeError
from convlayers.testing import assert_close

# Construction


@pytest.mark.parametrize(
    ("layers", "shape", "error", "message"),
    [
        ([cl.Conv2d(2, 3)], (6, 8), ShapeError, r'^Conv2d "0": takes images \(C, H, W\); got a sample of shape \(6, 8\)$'),
        ([("stem", cl.Conv2d(2, 5))], (1, 3, 3), ShapeError, r'^Conv2d "stem": kernel 5x5 does not fit the 3x3 input'),
        ([cl.Conv2d(4, 3, groups=2)], (3, 5, 5), ShapeError, r'^Conv2d "0": groups 2 must divide the 3 input channels'),
        ([cl.ReLU(), cl.MaxPool2d(4)], (1, 3, 3), ShapeError, r'^MaxPool2d "1": kernel 4x4 does not fit the 3x3 input'),
        ([cl.Softmax(2)], (3,), ShapeError, r'^Softmax "0": axis 2 is outside a batch of samples of shape \(3,\)$'),
        ([cl.Add()], (3,), ShapeError, r'^Add "0": takes two inputs or more; got 1$'),
        ([cl.ReLU], (3,), ArrayTypeError, r"layer 0 of Sequential is .*ReLU.*, not a layer; call it: ReLU\(\)"),
        ([cl.ReLU(), "relu"], (3,), ArrayTypeError, "layer 1 of Sequential is 'relu', not a layer"),
        (cl.ReLU(), (3,), ArrayTypeError, "layers"),
        (5, (3,), ArrayTypeError, "layers"),
        ([("a", cl.ReLU()), ("a", cl.ReLU())], (3,), ConfigError, 'two layers have the name "a"'),
        ([("1", cl.ReLU()), cl.ReLU()], (3,), ConfigError, 'two layers have the name "1"'),
        ([("a.b", cl.ReLU())], (3,), ConfigError, r"a layer's name is letters, digits, _, - and /; got 'a\.b'"),
        ([("", cl.ReLU())], (3,), ConfigError, "a layer's name"),
        ([cl.ReLU()], (), ArrayTypeError, "input_shape is the shape of one sample without the batch axis"),
        ([cl.ReLU()], 3, ArrayTypeError, "input_shape is the shape of one sample"),
        ([cl.ReLU()], (3, 0), ConfigError, "input_shape must be at least 1"),
        ([cl.ReLU()], (3, 2.5), ArrayTypeError, "input_shape"),
    ],
)
def test_construction_names_rule_value_and_place(layers, shape, error, message):
    with pytest.raises(error, match=message):
        cl.Sequential(layers, input_shape=shape)


@pytest.mark.parametrize("seed", ["0", 1.5, None, -1, True, np.array([1, 2])])
def test_seeds_are_whole_numbers(seed):
    with pytest.raises((ArrayTypeError, ConfigError), match="seed"):
        cl.Sequential([cl.Dense(2)], input_shape=(3,), seed=seed)


def test_graph_construction_errors():
    x, other = cl.Input((3,)), cl.Input((3,))
    y = cl.ReLU()(x)
    with pytest.raises(ShapeError, match=r"the graph reads an Input of shape .* that is not among the model's inputs"):
        cl.Model(other, y)
    with pytest.raises(ShapeError, match=r"an input of a model is a cl\.Input, not a layer's output"):
        cl.Model(y, cl.ReLU()(y))
    with pytest.raises(ArrayTypeError, match="outputs must be a node"):
        cl.Model(x, [])
    with pytest.raises(ArrayTypeError, match="inputs must be a node"):
        cl.Model([x, np.ones(3)], y)
    with pytest.raises(ConfigError, match='two layers have the name "twin"'):
        cl.Model(x, cl.ReLU()(cl.ReLU()(x, name="twin"), name="twin"))
    with pytest.raises(ShapeError, match=r'Add "sum": takes inputs along each axis, .* of size 1; got \(3,\), \(4,\)'):
        cl.Add()(x, cl.Dense(4)(x), name="sum")


def test_names():
    model = cl.Sequential([("stem", cl.Conv2d(2, 3)), cl.ReLU(), ("head/1", cl.Flatten()), cl.Dense(2)], input_shape=(1, 4, 4))
    assert list(model.parameters()) == ["stem.weight", "stem.bias", "3.weight", "3.bias"]
    assert list(model.gradients()) == list(model.parameters())
    x = cl.Input((4,))
    model = cl.Model(x, cl.Dense(2)(cl.ReLU()(cl.Dense(4)(cl.ReLU()(x), name="dense_1"))))
    assert [step.name for step in model.steps] == ["relu", "dense_1", "relu_1", "dense"]


def test_parameters_are_the_live_arrays_and_seeds_decide_them():
    one, same, other = small_cnn(4), small_cnn(4), small_cnn(5)
    for (name, value), again in zip(one.parameters().items(), same.parameters().values(), strict=True):
        np.testing.assert_array_equal(value, again)
        assert value.dtype == np.float32, name
    assert (one.parameters()["0.weight"] != other.parameters()["0.weight"]).any()
    one.parameters()["5.bias"] += 1
    np.testing.assert_allclose(one(images()), same(images()) + 1, rtol=1e-5)


def test_a_layer_keeps_its_weights_when_another_model_holds_it_too():
    dense = cl.Dense(3)
    first = cl.Sequential([dense], input_shape=(4,), seed=1)
    before = first.state_dict()["0.weight"]
    second = cl.Sequential([cl.ReLU(), dense], input_shape=(4,), seed=2)
    assert second.parameters()["1.weight"] is first.parameters()["0.weight"]
    np.testing.assert_array_equal(first.parameters()["0.weight"], before)
    with pytest.raises(ShapeError, match=r'Dense "0": its weight \(3, 4\) is shared, and would be \(3, 5\) here'):
        cl.Sequential([dense], input_shape=(5,))


# Arrays at the door


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones((2, 6, 8)), ShapeError, r"batch of samples of shape \(2, 6, 8\), so \(N, 2, 6, 8\); got \(2, 6, 8\)"),
        (np.ones((3, 1, 6, 8)), ShapeError, r"so \(N, 2, 6, 8\); got \(3, 1, 6, 8\)"),
        (np.ones((3, 2, 8, 6)), ShapeError, r"got \(3, 2, 8, 6\)"),
        (np.float32(1), ShapeError, r"got \(\)"),
        (np.ones((3, 2, 6, 8), complex), ArrayTypeError, "must hold real numbers; got dtype complex128"),
        ([["a"]], ArrayTypeError, "must hold real numbers"),
        (None, ArrayTypeError, "must hold real numbers"),
        ([[1, 2], [3]], ArrayTypeError, "not a rectangular array"),
    ],
)
def test_inputs_that_a_model_refuses(x, error, message):
    model = small_cnn()
    for call in (model, model.forward):
        with pytest.raises(error, match=message):
            call(x)


def test_arrays_of_other_forms_are_never_misread():
    model, x = small_cnn(), images()
    expected = model(x)
    forms = [x.astype(">f4"), np.asfortranarray(x), np.repeat(x, 2, axis=3)[..., ::2], x.tolist(), x.astype("f8").astype("f4")]
    for form in forms[:3]:
        form.flags.writeable = False
        np.testing.assert_array_equal(model(form), expected)
    assert_close(expected, model(forms[3]), 100, "lists, in float64")
    whole = np.arange(96).reshape(1, 2, 6, 8)
    for dtype in ("int8", "uint8", "int64", ">i4", "uint16"):
        np.testing.assert_array_equal(model(whole.astype(dtype)), model(whole.astype("f4")))


def test_an_empty_batch():
    model = small_cnn()
    y, tape = model.forward(images()[:0])
    assert y.shape == (0, 3)
    dx = model.backward(y, tape)
    assert dx.shape == (0, 2, 6, 8)
    assert all(not g.any() for g in model.gradients().values())


def test_gradients_that_backward_refuses():
    model = small_cnn()
    y, tape = model.forward(images())
    with pytest.raises(ShapeError, match=r"dy must have the output's shape \(3, 3\); got \(2, 3\)"):
        model.backward(y[:2], tape)
    two = residual()
    _, tape = two.forward([np.ones((1, 3, 6, 6)), np.ones((1, 3, 6, 6))])
    with pytest.raises(ShapeError, match=r"\(1, 108\)"):
        two.backward(np.ones(108), tape)


def test_several_inputs_that_a_model_refuses():
    model, x = residual(), np.ones((2, 3, 6, 6), np.float32)
    with pytest.raises(ArrayTypeError, match="the model takes 2 inputs; got 1"):
        model(x)
    with pytest.raises(ArrayTypeError, match="the model takes 2 inputs; got 3"):
        model([x, x, x])
    with pytest.raises(ShapeError, match="the inputs' batch sizes differ: 2, 1"):
        model([x, x[:1]])
