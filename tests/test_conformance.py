"""The conformance suite over every registered layer, and the suite against layers that break one rule each."""

import subprocess
import sys

import numpy as np
import pytest

import convlayers as cl
from convlayers import functional, kernels, registry
from convlayers.layer import Bound
from convlayers.testing import check_layer, layer_checks, registered_examples

_CASES = [
    pytest.param(check, id=f"{layer_id}-{config}-{input_shape}-{name}")
    for layer_id, config, input_shape in registered_examples()
    for name, check in layer_checks(cl.create_layer(layer_id, **config), input_shape)
]


@pytest.mark.parametrize("check", _CASES)
def test_registered_layer(check):
    check()


# Where geometry is at its oddest; each goes through ONNX too.
_CORNERS = [
    (cl.Conv2d(3, [4, 2], stride=[3, 1], padding="same"), (2, 7, 5)),
    (cl.Conv2d(4, 3, stride=2, dilation=[2, 1], padding="same", groups=2), (2, 9, 8)),
    (cl.Conv2d(2, 2, padding=[[3, 0], [0, 4]]), (1, 2, 1)),
    (cl.Conv2d(6, 5, padding="same", groups=3, bias=False), (3, 4, 3)),
    (cl.MaxPool2d([3, 4], stride=[2, 3], padding="same"), (2, 6, 5)),
    (cl.MaxPool2d(6, stride=3, ceil_mode=True), (2, 4, 5)),
    (cl.MaxPool2d(3, stride=5, padding=1, ceil_mode=True), (2, 7, 8)),
    (cl.AvgPool2d([3, 4], stride=[2, 3], padding="same", count_include_pad=False), (2, 6, 5)),
    (cl.AvgPool2d(6, stride=3, ceil_mode=True), (2, 4, 5)),
    (cl.AvgPool2d(3, stride=2, padding=[[1, 0], [0, 1]], ceil_mode=True), (2, 7, 8)),
    (cl.AvgPool2d(2, stride=3, padding="valid"), (2, 7, 8)),
    (cl.BatchNorm2d(momentum=1), (33, 1, 2)),
    (cl.BatchNorm2d(eps=1.0, momentum=0), (1, 7, 9)),
    (cl.GlobalAvgPool2d(), (5, 1, 17)),
    (cl.Softmax(-2), (3, 4, 5)),
    (cl.Dense(1), (1,)),
    (cl.Flatten(), (1, 1, 1)),
]


@pytest.mark.parametrize(("layer", "shape"), _CORNERS, ids=[repr(layer) for layer, _ in _CORNERS])
def test_odd_corner(layer, shape):
    check_layer(layer, shape, seed=2)


class Scale(cl.Layer):
    """`y = factor w[c] x`: right in every respect; each class below it breaks one rule."""

    def __init__(self, factor=2.0):
        self.factor = factor

    def build(self, input_shape, rng):
        self.params["w"] = rng.uniform(0.5, 1.5, (input_shape[0], 1, 1)).astype(np.float32)
        return input_shape

    def _scale(self, x):
        return (self.params["w"] * self.factor).astype(x.dtype)

    def forward(self, x, *, training):
        return x * self._scale(x), x

    def backward(self, dy, cache):
        self.grads["w"] += self.factor * (dy * cache).sum(axis=(0, 2, 3))[:, None, None]
        return dy * self._scale(dy)

    def to_onnx(self, graph, *inputs):
        return graph.op("Mul", graph.op("Mul", *inputs, self.params["w"]), np.array(self.factor, np.float32))


class AltersItsArgument(Scale):
    def __init__(self, factor=2.0):
        self.factor = factor / 2


class HidesItsArgument(Scale):
    def __init__(self, hidden=2.0):
        self.factor = hidden


class TakesAnything(Scale):
    def __init__(self, **options):
        self.factor = options.get("factor", 2.0)


class WideParameters(Scale):
    def build(self, input_shape, rng):
        self.params["w"] = rng.uniform(0.5, 1.5, (input_shape[0], 1, 1))
        return input_shape


class WrongShape(Scale):
    def build(self, input_shape, rng):
        super().build(input_shape, rng)
        return (*input_shape[:-1], input_shape[-1] + 1)


class ForgetsFloat64(Scale):
    def forward(self, x, *, training):
        return (x * self._scale(x)).astype(np.float32), x


class DrawsWeightsElsewhere(Scale):
    def build(self, input_shape, rng):
        return super().build(input_shape, np.random.default_rng())


class RoundsToHalf(Scale):
    def forward(self, x, *, training):
        y = x * self._scale(x)
        return (y.astype(np.float16).astype(np.float32) if y.dtype == np.float32 else y), x


class TakesTheFirstForTheMaximum(Scale):
    absorbs_max_pool = True

    def forward(self, x, *, training, pooled=False):
        y, cache = super().forward(x, training=training)
        height, width = (n // 2 * 2 for n in y.shape[2:])
        return (y[:, :, :height:2, :width:2] if pooled else y), cache


class WrongInputGradient(Scale):
    def backward(self, dy, cache):
        return super().backward(dy, cache) * 1.001


class WrongWeightGradient(Scale):
    def backward(self, dy, cache):
        self.grads["w"][0] += 0.001 * len(cache)
        return super().backward(dy, cache)


class WrongInTraining(Scale):
    def forward(self, x, *, training):
        return x * self._scale(x) * (1.5 if training else 1.0), x


class SetsGradients(Scale):
    def backward(self, dy, cache):
        self.grads["w"].fill(0)
        return super().backward(dy, cache)


class AccumulatesOtherwise(Scale):
    def accumulate(self, dy, cache):
        self.grads["w"] += 1


class AnotherInputGradient(Scale):
    def backward_input(self, dy, cache):
        return dy


class AddsWithTheInputGradient(Scale):
    def backward_input(self, dy, cache):
        return self.backward(dy, cache)


class CountsThreads(Scale):
    def forward(self, x, *, training):
        y = x * self._scale(x)
        return y + y.dtype.type(1e-7 * kernels.get_num_threads()), x


class LeavesHoles(Scale):
    def forward(self, x, *, training):
        y = kernels.memory.empty(x.shape, x.dtype)
        y[..., :-1] = (x * self._scale(x))[..., :-1]
        y[..., -1] = np.nan_to_num(y[..., -1]) if kernels.isa() == "scalar" else y[..., -1]
        return y, x


class DrawsAnew(Scale):
    def forward(self, x, *, training):
        return x * self._scale(x) + np.random.default_rng().random(x.shape, np.float32), x


class DrawsInInference(Scale):
    def forward(self, x, *, training):
        from convlayers.randomness import layer_generator

        return x * self._scale(x) * layer_generator("scale").integers(1, 3, x.shape).astype(x.dtype), x


class WritesToItsInput(Scale):
    def forward(self, x, *, training):
        before = x.copy()
        x *= self._scale(x)
        return x.copy(), before


class KeepsItsInput(Scale):
    def forward(self, x, *, training):
        self._x = x
        return x * self._scale(x), None

    def backward(self, dy, cache):
        return super().backward(dy, self._x)


class LooksAtNeighbours(Scale):
    def forward(self, x, *, training):
        return (x - (x.mean(axis=0) if len(x) else 0)) * self._scale(x), x


class LeavesTheReLUOut(Scale):
    fuses_relu = True

    def forward(self, x, *, training, relu=False):
        return super().forward(x, training=training)


class ForgetsTheReLUOnTheWayBack(Scale):
    fuses_relu = True

    def forward(self, x, *, training, relu=False):
        y, cache = super().forward(x, training=training)
        return (np.maximum(y, 0) if relu else y), cache


class TakesTheReLUFromTheWrongSide(Scale):
    fuses_relu = commutes_with_relu = True

    def forward(self, x, *, training, relu=False):
        y = -x
        return (np.maximum(y, 0) if relu else y), y if relu else np.ones_like(y)

    def backward(self, dy, cache):
        return np.where(cache > 0, -dy, 0).astype(dy.dtype)


class SaysAnotherScale(Scale):
    def scale_shift(self):
        return self.params["w"].ravel(), np.zeros(len(self.params["w"]), np.float32)


class LosesTheShift(Scale):
    absorbs_affine = True

    def forward(self, x, *, training, affine=None):
        y, cache = super().forward(x, training=training)
        return (y if affine is None else y * affine[0][:, None, None]), cache


class BoundToAnotherScale(Scale):
    def bind(self, shape, dtype, *, training):
        return Bound(lambda x: (x * self.params["w"], x), self.backward, self.accumulate)


class BoundToOldParameters(Scale):
    def bind(self, shape, dtype, *, training):
        w = self.params["w"]
        return Bound(lambda x: (x * (w * self.factor).astype(x.dtype), x), self.backward, self.accumulate)


class BoundWithoutGradients(Scale):
    def bind(self, shape, dtype, *, training):
        return Bound(lambda x: self.forward(x, training=training), self.backward_input, self.accumulate)


class ComputesBesideTheRecording(Scale):
    replays = True

    def forward(self, x, *, training):
        y = functional.add([x, x])
        y *= self._scale(x) / 2
        return y, x


class ChoosesByValues(Scale):
    replays = True

    def forward(self, x, *, training):
        y = functional.relu(x) if x.ravel()[0] > 0 else functional.add([x, x])
        return y, (x, y)

    def backward(self, dy, cache):
        return functional.relu_backward(dy, cache[1])


class RemembersOutsideItsParameters(Scale):
    def build(self, input_shape, rng):
        self._secret = np.float32(np.random.default_rng().uniform(1, 2))
        return super().build(input_shape, rng)

    def forward(self, x, *, training):
        return x * self._scale(x) * self._secret.astype(x.dtype), x


class ExportsSomethingElse(Scale):
    def to_onnx(self, graph, *inputs):
        return graph.op("Mul", *inputs, self.params["w"])


_BROKEN = [
    (AltersItsArgument, "configuration"),
    (HidesItsArgument, "configuration"),
    (TakesAnything, "configuration"),
    (WideParameters, "shapes_and_dtypes"),
    (WrongShape, "shapes_and_dtypes"),
    (ForgetsFloat64, "shapes_and_dtypes"),
    (DrawsWeightsElsewhere, "same_weights"),
    (RoundsToHalf, "precision"),
    (WrongInputGradient, "gradients_in_inference"),
    (WrongWeightGradient, "gradients_in_inference"),
    (WrongInTraining, "gradients_in_training"),
    (SetsGradients, "gradients_add"),
    (AccumulatesOtherwise, "gradients_add"),
    (AnotherInputGradient, "gradients_add"),
    (AddsWithTheInputGradient, "gradients_add"),
    (CountsThreads, "machines"),
    (LeavesHoles, "machines"),
    (DrawsAnew, "repeatable"),
    (DrawsInInference, "repeatable"),
    (WritesToItsInput, "writes_nothing"),
    (KeepsItsInput, "keeps_nothing"),
    (LeavesTheReLUOut, "takes_over_relu"),
    (ForgetsTheReLUOnTheWayBack, "takes_over_relu"),
    (TakesTheFirstForTheMaximum, "takes_over_maximum"),
    (TakesTheReLUFromTheWrongSide, "commutes_with_relu"),
    (BoundToAnotherScale, "bound_to_a_shape"),
    (BoundToOldParameters, "bound_to_a_shape"),
    (BoundWithoutGradients, "bound_to_a_shape"),
    (ComputesBesideTheRecording, "replayed"),
    (ChoosesByValues, "replayed"),
    (SaysAnotherScale, "scale_and_shift"),
    (LosesTheShift, "scale_and_shift"),
    (LooksAtNeighbours, "batch_sizes"),
    (RemembersOutsideItsParameters, "save_and_load"),
    (ExportsSomethingElse, "onnx"),
]


@pytest.fixture
def register(monkeypatch):
    """Registers a layer for one test alone."""
    monkeypatch.setattr(registry, "_registered", {})
    return cl.register_layer("tested_scale")


def test_a_right_layer_passes(register):
    check_layer(register(Scale)(), (3, 4, 5), seed=11)


@pytest.mark.parametrize(("cls", "name"), _BROKEN, ids=[cls.__name__ for cls, _ in _BROKEN])
def test_each_broken_rule_is_found(register, cls, name):
    checks = dict(layer_checks(register(cls)(), (3, 4, 5), seed=11))
    with pytest.raises(AssertionError, match=rf"{name} of {cls.__name__}.*\(3, 4, 5\), seed 11: "):
        checks[name]()


def test_a_layer_without_registration_cannot_be_saved():
    checks = dict(layer_checks(Scale(), (3, 4, 5)))
    with pytest.raises(AssertionError, match=r"save_and_load of Scale.* is not registered"):
        checks["save_and_load"]()


def test_a_layer_without_to_onnx_must_be_refused_by_name(register):
    bare = register(type("Bare", (Scale,), {"to_onnx": cl.Layer.to_onnx}))
    dict(layer_checks(bare(), (3, 4, 5)))["onnx"]()
    lenient = dict(layer_checks(bare(), (3, 4, 5), export=lambda model, path: None))
    with pytest.raises(AssertionError, match="a layer without to_onnx was exported"):
        lenient["onnx"]()


def test_a_built_layer_is_refused():
    layer = cl.Dense(3)
    cl.Sequential([layer], input_shape=(4,))
    with pytest.raises(AssertionError, match="not built"):
        check_layer(layer, (4,))


def test_without_assertions_the_suite_refuses_to_run():
    code = "from convlayers import ReLU; from convlayers.testing import check_layer; check_layer(ReLU(), (3,))"
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "run it without -O" in done.stderr


def test_a_layer_class_without_examples_is_named(register):
    register(Scale)
    with pytest.raises(AssertionError, match='layer "tested_scale": Scale has no examples'):
        registered_examples()
