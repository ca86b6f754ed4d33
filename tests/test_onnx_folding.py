"""Batch normalization folded into the weights before it."""

import numpy as np
import onnx
import pytest
from exports import random, run

import convlayers as cl
from convlayers.onnx.compare import relative_error
from convlayers.onnx.folding import folded
from convlayers.tolerance import tolerance


def settle(model):
    """Normalizations that are not those of a fresh model."""
    rng = np.random.default_rng(5)
    for name, array in {**model.parameters(), **model.buffers()}.items():
        if array.ndim == 1 and not name.endswith("conv.bias"):
            array[...] = rng.uniform(0.3, 1.7, array.shape) * (1 if name.endswith("var") else rng.choice([-1, 1], array.shape))
    return model


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def agree(model, tmp_path, kept):
    """Export folded; onnxruntime gives the model's outputs, and `kept` normalizations are left."""
    cl.export_onnx(settle(model), tmp_path / "m.onnx", fold_batchnorm=True)
    x = [random(5, *shape) for shape in model.input_shapes]
    expected = model(x if len(x) > 1 else x[0])
    actual = run(tmp_path / "m.onnx", *x)
    for found, y in zip(actual, expected if isinstance(expected, list) else [expected], strict=True):
        assert relative_error(found, y) < tolerance(np.float32, 1000)
    assert operators(tmp_path / "m.onnx").count("BatchNormalization") == kept
    return onnx.load(tmp_path / "m.onnx").graph


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (lambda b: cl.Conv1d(6, 3, padding=1, bias=b), cl.BatchNorm1d, (4, 9)),
        (lambda b: cl.Conv1d(6, 3, groups=2, bias=b), cl.BatchNorm1d, (4, 9)),
        (lambda b: cl.Conv2d(6, 3, padding="same", stride=2, bias=b), cl.BatchNorm2d, (4, 7, 8)),
        (lambda b: cl.Conv2d(6, 3, groups=2, bias=b), cl.BatchNorm2d, (4, 7, 8)),
        (lambda b: cl.Conv2d(8, 3, groups=4, padding=1, bias=b), cl.BatchNorm2d, (4, 7, 8)),
        (lambda b: cl.Conv3d(6, 2, groups=2, bias=b), cl.BatchNorm3d, (4, 3, 5, 4)),
        (lambda b: cl.ConvTranspose2d(6, 3, stride=2, bias=b), cl.BatchNorm2d, (4, 5, 4)),
        (lambda b: cl.ConvTranspose2d(6, [2, 3], groups=2, padding=1, bias=b), cl.BatchNorm2d, (4, 5, 4)),
        (lambda b: cl.Dense(6, bias=b), cl.BatchNorm1d, (9,)),
    ],
)
def test_every_layer_with_weights_takes_it(layer, norm, shape, bias, tmp_path):
    model = cl.Sequential([("conv", layer(bias)), ("norm", norm(eps=0.01)), cl.ReLU()], input_shape=shape, seed=2)
    graph = agree(model, tmp_path, 0)
    assert [tensor.name for tensor in graph.initializer] == ["conv.weight", "conv.bias"]
    assert tuple(graph.initializer[0].dims) == model.parameters()["conv.weight"].shape
    assert graph.node[0].name == f"conv/{graph.node[0].op_type}"


def test_the_fold_is_rounded_once():
    model = cl.Sequential([("conv", cl.Conv2d(5, 3, bias=False)), ("norm", cl.BatchNorm2d())], input_shape=(2, 5, 5), seed=1)
    p, b = ({k: v.astype(np.float64) for k, v in a.items()} for a in (settle(model).parameters(), model.buffers()))
    scale = p["norm.weight"] / np.sqrt(b["norm.running_var"] + 1e-5)
    found = folded(model).parameters()
    np.testing.assert_array_equal(found["conv.weight"], np.float32(p["conv.weight"] * scale[:, None, None, None]))
    np.testing.assert_array_equal(found["conv.bias"], np.float32(p["norm.bias"] - b["norm.running_mean"] * scale))


def test_the_model_stays_as_it_is(tmp_path):
    model = settle(cl.models.resnet20((3, 8, 8)))
    before, x = model.state_dict(), random(2, 3, 8, 8)
    y = model(x)
    agree(model, tmp_path, 0)
    for name, array in before.items():
        np.testing.assert_array_equal(model.state_dict()[name], array)
    np.testing.assert_array_equal(model(x), y)
    assert len(model.steps) > len(folded(model).steps)


def two_readers():
    x = cl.Input((3, 5, 5))
    y = cl.Conv2d(3, 3, padding=1)(x)
    return cl.Model(x, cl.Add()(cl.BatchNorm2d()(y), y))


def an_output_in_between():
    x = cl.Input((3, 5, 5))
    y = cl.Conv2d(3, 3, padding=1)(x)
    return cl.Model(x, [y, cl.BatchNorm2d()(y)])


def something_in_between():
    return cl.Sequential([cl.Conv2d(3, 3), cl.ReLU(), cl.BatchNorm2d()], input_shape=(3, 5, 5))


def before_a_convolution():
    return cl.Sequential([cl.BatchNorm2d(), cl.Conv2d(3, 3, padding=1)], input_shape=(3, 5, 5))


def shared_with_other_norms():
    a, b, shared = cl.Input((3, 5, 5)), cl.Input((3, 5, 5)), cl.Conv2d(3, 3)
    return cl.Model([a, b], cl.Add()(cl.BatchNorm2d()(shared(a)), cl.BatchNorm2d()(shared(b))))


def shared_and_bare_at_one_place():
    a, b, shared = cl.Input((3, 5, 5)), cl.Input((3, 5, 5)), cl.Conv2d(3, 3)
    return cl.Model([a, b], cl.Add()(cl.BatchNorm2d()(shared(a)), cl.ReLU()(shared(b))))


@pytest.mark.parametrize(
    ("make", "kept"),
    [
        (two_readers, 1),
        (an_output_in_between, 1),
        (something_in_between, 1),
        (before_a_convolution, 1),
        (shared_with_other_norms, 2),
        (shared_and_bare_at_one_place, 1),
    ],
)
def test_what_cannot_be_folded_is_left(make, kept, tmp_path):
    agree(make(), tmp_path, kept)


def test_a_branch_at_two_places_is_folded_once(tmp_path):
    x = cl.Input((3, 5, 5))
    branch = cl.Model(x, cl.BatchNorm2d()(cl.Conv2d(4, 3)(x), name="norm"))
    a, b = cl.Input((3, 5, 5)), cl.Input((3, 5, 5))
    graph = agree(cl.Model([a, b], cl.Add()(branch(a, name="left"), branch(b, name="right"))), tmp_path, 0)
    assert len(graph.initializer) == 2


def test_one_norm_behind_two_convolutions(tmp_path):
    a, b, norm = cl.Input((3, 5, 5)), cl.Input((3, 5, 5)), cl.BatchNorm2d()
    model = cl.Model([a, b], cl.Add()(norm(cl.Conv2d(4, 3)(a)), norm(cl.Conv2d(4, 3)(b))))
    assert len(agree(model, tmp_path, 0).initializer) == 4


def test_a_normalization_as_the_output(tmp_path):
    x = cl.Input((3, 5, 5))
    y = cl.BatchNorm2d()(cl.Conv2d(4, 3)(x))
    agree(cl.Model(x, [y, y]), tmp_path, 0)
    cl.export_onnx(cl.Model(x, y), tmp_path / "m.onnx", fold_batchnorm=True, certificate=True)
    assert cl.verify_onnx(tmp_path / "m.onnx").certificate
