"""Layers bound to the shapes of a model's values: the same bits as unbound, whatever goes in and whatever changes meanwhile."""

import copy
import pickle

import numpy as np
import pytest
from helpers import beside

import convlayers as cl
from convlayers import kernels
from convlayers.errors import ConfigError, ShapeError
from convlayers.functional import conv, conv_options
from convlayers.functional.algorithms import winograd
from convlayers.functional.algorithms.problem import WEIGHT_GRADIENT
from convlayers.layer import Bound
from convlayers.model import passes
from convlayers.testing import on_every_machine

MODELS = ("digits_cnn", "lenet5", "resnet20", "mobilenet_small")


def digits(n, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 1, 8, 8)).astype(dtype)


def bound_layers(model, x, training=True):
    """Which layers the next pass over x runs bound."""
    calls = model.passes.calls if training else model.passes.calls_of_inference
    fitted = model.passes._fit(calls, len(x), x.dtype, training)
    return [type(call.layer).__name__ for call, fit in zip(calls, fitted, strict=True) if fit is not None]


def everything(model, x, state):
    """Outputs of inference and training, and every gradient."""
    model.load_state_dict(state)
    model.zero_gradients()
    y, tape = model.forward(x, step=0)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype)
    dx = model.backward(dy, tape)
    model.backward(dy, model.forward(x, step=0)[1], input_gradient=False)
    still, tape = model.forward(x, training=False)
    return [model(x), y, dx, still, model.backward(dy, tape), *(g.copy() for g in model.gradients().values())]


@pytest.mark.parametrize("name", MODELS)
def test_the_bits_of_unbound_layers(name, monkeypatch):
    model = getattr(cl.models, name)()
    state, x = model.state_dict(), np.random.default_rng(0).standard_normal((3, *model.input_shape), np.float32)
    assert {"Conv2d", "Dense"} <= {*bound_layers(model, x), *bound_layers(model, x, training=False)}

    def compute():
        return everything(model, x, state)

    bound = on_every_machine(compute)
    monkeypatch.setattr(passes, "has_bind", lambda layer: False)
    model = getattr(cl.models, name)()
    assert not bound_layers(model, x)
    for isa, arrays in on_every_machine(compute).items():
        for number, (one, other) in enumerate(zip(bound[isa], arrays, strict=True)):
            np.testing.assert_array_equal(one, other, err_msg=f"result {number} under {isa}")


def test_batches_of_many_sizes_one_after_the_other():
    model = cl.models.digits_cnn()
    sizes = [*beside(16), 1, 0, 64, *range(2, 24), 16]
    for n in sizes:
        np.testing.assert_array_equal(model(digits(n)), cl.models.digits_cnn()(digits(n)))
    assert len(model.passes._fitted) <= passes._MOST_FITTED


def test_what_does_not_fit_runs_unbound():
    model = cl.models.digits_cnn()
    x = digits(4)
    model(x)
    read_only = x.copy()
    read_only.flags.writeable = False
    for given in (read_only, np.asfortranarray(x), x[::-1][::-1], list(x)):
        np.testing.assert_array_equal(model(given), model(x))
    wide = model(x.astype(np.float64))
    assert wide.dtype == np.float64
    np.testing.assert_allclose(wide, model(x), rtol=1e-4, atol=1e-5)


def test_parameters_exchanged_after_a_pass():
    """Other values in the same array, another array, another type, another layout, and at last another shape."""
    model = cl.Sequential([cl.Conv2d(4, 3), cl.Flatten(), cl.Dense(5)], input_shape=(2, 6, 6))
    x = np.random.default_rng(0).standard_normal((3, 2, 6, 6), np.float32)
    before = model(x)
    layers = [layer for _, layer in model.layers() if layer.params]
    exchanges = (
        lambda w: 2 * w,
        lambda w: (2 * w).astype(np.float64),
        lambda w: np.asfortranarray(2 * w),
    )
    for exchange in exchanges:
        kept = [dict(layer.params) for layer in layers]
        for layer in layers:
            layer.params = {name: exchange(array) for name, array in layer.params.items()}
        expected = cl.Sequential([cl.Conv2d(4, 3), cl.Flatten(), cl.Dense(5)], input_shape=(2, 6, 6))
        expected.load_state_dict({name: array.astype(np.float32) for name, array in model.parameters().items()})
        np.testing.assert_array_equal(model(x), expected(x))
        y, tape = model.forward(x)
        _, other_tape = expected.forward(x)
        model.zero_gradients()
        np.testing.assert_array_equal(model.backward(np.ones_like(y), tape), expected.backward(np.ones_like(y), other_tape))
        for layer, params in zip(layers, kept, strict=True):
            layer.params = params
    np.testing.assert_array_equal(model(x), before)
    layers[1].params["weight"] = np.zeros((5, 7), np.float32)
    with pytest.raises(ShapeError, match=r"Dense \"2\".*weight \(5, 7\) is for 7 features; x has 64"):
        model(x)


@pytest.mark.parametrize(("place", "shape"), [(0, (4, 3, 3, 3)), (2, (5, 7)), (2, (5, 65))])
def test_weights_of_another_shape_before_the_first_pass(place, shape):
    for run in (lambda model, x: model(x), lambda model, x: model.forward(x)):
        model = cl.Sequential([cl.Conv2d(4, 3), cl.Flatten(), cl.Dense(5)], input_shape=(2, 6, 6))
        layer = [step.layer for step in model.steps][place]
        layer.params["weight"] = np.zeros(shape, np.float32)
        with pytest.raises(ShapeError, match=rf"{type(layer).__name__} \"{place}\""):
            run(model, np.zeros((3, 2, 6, 6), np.float32))


@pytest.mark.parametrize("name", MODELS)
def test_gradients_exchanged_after_a_pass(name):
    model = getattr(cl.models, name)()
    x = np.random.default_rng(0).standard_normal((4, *model.input_shape), np.float32)
    y, tape = model.forward(x, step=0)
    model.backward(np.ones_like(y), tape)
    expected = {name: g.copy() for name, g in model.gradients().items()}
    for _, layer in model.layers():
        layer.grads = {name: np.zeros(g.shape, np.float64) for name, g in layer.grads.items()}
    model.backward(np.ones_like(y), tape)
    for name, gradient in model.gradients().items():
        assert gradient.dtype == np.float64
        np.testing.assert_array_equal(gradient.astype(np.float32), expected[name], err_msg=name)


# Images beside tiles of 4 and 8 outputs, lines longer than a block of tiles, and more images than one block holds.
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (3, 5, 7, 9), (2, 33, 4, 4), (40, 16, 8, 8), (1, 2, 3, 700), (2, 4, 37, 31)])
def test_an_input_gradient_onto_an_array(shape, stride):
    rng, options = np.random.default_rng(7), conv_options(stride, 1, 1, 1, None, "winograd")
    w, array = (rng.standard_normal(size).astype(np.float32) for size in ((6, shape[1], 3, 3), shape))
    dy = rng.standard_normal((shape[0], 6, *(-(-side // stride) for side in shape[2:]))).astype(np.float32)
    kept = array.copy()

    def compute():
        sizes = 2, shape, w.shape, w.dtype, options
        dx = conv.bound_backward_input(*sizes)(dy, w)
        together = conv.bound_backward_input_onto(*sizes)
        for weight in (w, np.asfortranarray(w)):  # what fits, and what does not
            np.testing.assert_array_equal(together(dy, weight, array), dx + array)
        return [dx]

    on_every_machine(compute)
    np.testing.assert_array_equal(array, kept)


@pytest.mark.parametrize("kernel", [(3,), (7,), (1, 5), (4, 1)])
def test_gradients_of_rows_onto_arrays(kernel):
    """Those of sequences are views of images'; weights' gradients of several parts of the taps are added part by part."""
    rank, rng = len(kernel), np.random.default_rng(8)
    options, size = conv_options(1, 0, 1, 2, None, "winograd"), (9, 70)[-rank:]
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 6, *size), (8, 3, *kernel)))
    dy = rng.standard_normal((3, 8, *(n - k + 1 for n, k in zip(size, kernel, strict=True)))).astype(np.float32)
    array, dw, db = (rng.standard_normal(shape).astype(np.float32) for shape in (x.shape, w.shape, (8,)))

    def compute():
        sizes = rank, x.shape, w.shape, w.dtype, options
        dx = conv.bound_backward_input_onto(*sizes)(dy, w, array)
        np.testing.assert_array_equal(dx, conv.bound_backward_input(*sizes)(dy, w) + array)
        more = dw.copy(), db.copy()
        conv.bound_add_backward_weight(*sizes)(dy, x, *more)
        for grown, before, alone in zip(more, (dw, db), conv.backward_weight(rank, dy, x, w.shape, True, options), strict=True):
            np.testing.assert_allclose(grown, before + alone, rtol=1e-5, atol=1e-5)
        return [dx, *more]

    on_every_machine(compute)


@pytest.mark.parametrize("algorithm", ["direct", "fft", "einsum"])
def test_algorithms_whose_last_pass_adds_nothing(algorithm):
    options = conv_options(1, 1, 1, 1, None, algorithm)
    assert conv.bound_backward_input_onto(2, (2, 3, 8, 8), (4, 3, 3, 3), np.dtype(np.float32), options) is None


def test_gradients_that_meet_before_a_convolution(monkeypatch):
    """The second is added in the last pass of the convolution that gives it, to the bits of a pass of its own."""
    x = cl.Input((16, 8, 8))
    stem = cl.Conv2d(16, 3, padding=1)(x)
    body = cl.Conv2d(16, 3, padding=1, algorithm="winograd")(stem)
    model = cl.Model(x, cl.Add()(cl.Conv2d(16, 3, padding=1)(body), stem))
    images = np.random.default_rng(0).standard_normal((5, 16, 8, 8), np.float32)

    def gradients():
        model.zero_gradients()
        y, tape = model.forward(images)
        return [model.backward(y, tape), *(g.copy() for g in model.gradients().values())]

    with monkeypatch.context() as patch:
        patch.setattr(passes, "_joined", lambda *_: pytest.fail("two gradients were added by a pass of their own"))
        together = gradients()
    monkeypatch.setattr(passes, "has_bind", lambda layer: False)
    model.passes._fitted.clear()
    for number, (one, other) in enumerate(zip(together, gradients(), strict=True)):
        np.testing.assert_array_equal(one, other, err_msg=f"result {number}")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_bound_to_its_own_arrays(duplicate):
    model, x = cl.models.digits_cnn(), digits(4)
    before = model(x)
    other = duplicate(model)
    for array in other.parameters().values():
        array *= 2
    y, tape = other.forward(x, step=0)
    other.backward(np.ones_like(y), tape)
    assert not np.array_equal(other(x), before)
    np.testing.assert_array_equal(model(x), before)
    assert not any(g.any() for g in model.gradients().values())


@pytest.mark.parametrize("name", ["resnet20", "resnet50"])
def test_a_copy_of_a_deep_graph_is_a_model_of_its_own(name):
    model = getattr(cl.models, name)(input_shape=(3, 32, 32))
    model.freeze("stage1*") if name == "resnet20" else None
    other = copy.deepcopy(model)
    assert other.to_config() == model.to_config()
    assert other.frozen == model.frozen
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
    np.testing.assert_array_equal(other(x), model(x))
    node = other.node(other.value_names[-1])
    head = cl.Model(other.input_nodes, cl.ReLU()(node))
    np.testing.assert_array_equal(head(x), np.maximum(model(x), 0))


def test_a_subclass_with_passes_of_its_own_is_not_bound():
    class Doubled(cl.Conv2d):
        def forward(self, x, *, training, **options):
            y, cache = super().forward(x, training=training, **options)
            return 2 * y, cache

    class Renamed(cl.Conv2d):
        pass

    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6), np.float32)
    plain, doubled, renamed = (cl.Sequential([cls(4, 3)], input_shape=(3, 6, 6)) for cls in (cl.Conv2d, Doubled, Renamed))
    np.testing.assert_array_equal(doubled(x), 2 * plain(x))
    np.testing.assert_array_equal(renamed(x), plain(x))
    assert not bound_layers(doubled, x)
    assert bound_layers(renamed, x) == ["Renamed"]


def test_another_thread_count_and_instruction_set_between_two_passes():
    model, x = cl.models.digits_cnn(), digits(64)
    results = {}
    for isa in kernels.available():
        for threads in (1, 2):
            with kernels.using(isa=isa, threads=threads):
                results[isa, threads] = model(x)
                np.testing.assert_array_equal(results[isa, threads], cl.models.digits_cnn()(x))
        np.testing.assert_array_equal(results[isa, 1], results[isa, 2])


def test_a_foreign_layer_between_bound_ones():
    """What it returns need not fit: of another type, of another layout, or of a shape that it did not say."""

    class Foreign(cl.Layer):
        def __init__(self, change):
            self.change = change

        def forward(self, x, *, training):
            return self.change(x), None

        def backward(self, dy, cache):
            return self.change(dy)

    def model(change):
        layers = [cl.Conv2d(3, 3, padding=1), Foreign(change), cl.Conv2d(2, 3), cl.MaxPool2d(2)]
        return cl.Sequential([layers[0], layers[1], *layers[2:]], input_shape=(2, 6, 6))

    x = np.random.default_rng(0).standard_normal((3, 2, 6, 6), np.float32)
    plain = model(lambda a: a)
    expected = everything(plain, x, plain.state_dict())
    moved = model(lambda a: np.asfortranarray(a))
    for one, other in zip(everything(moved, x, plain.state_dict()), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    wide = model(lambda a: a.astype(np.float64))
    wide.load_state_dict(plain.state_dict())
    assert wide(x).dtype == np.float64
    np.testing.assert_allclose(wide(x), expected[0], rtol=1e-4, atol=1e-5)
    smaller = model(lambda a: np.ascontiguousarray(a[:, :, 1:]))
    smaller.load_state_dict(plain.state_dict())
    assert smaller(x).shape == (3, 2, 1, 2)


def test_an_error_is_the_forward_pass_s(monkeypatch):
    """A plan that only the gradient lacks says so when the gradient is asked for."""
    lacking = lambda problem: "lacks this one" if problem.direction == WEIGHT_GRADIENT else None  # noqa: E731
    monkeypatch.setattr(winograd, "refuses", lacking)
    model = cl.Sequential([cl.Conv2d(2, 3, stride=2, algorithm="winograd")], input_shape=(2, 9, 19))
    x = np.ones((2, 2, 9, 19), np.float32)
    assert model(x).shape == (2, 2, 4, 9)
    y, tape = model.forward(x)
    with pytest.raises(ConfigError, match="algorithm 'winograd' lacks this one; direct"):
        model.backward(np.ones_like(y), tape)


def test_a_plug_in_is_bound_once_a_batch_size():
    asked = []

    class Doubled(cl.Layer):
        def forward(self, x, *, training):
            raise AssertionError("unbound")

        def bind(self, shape, dtype, *, training):
            asked.append((shape, dtype, training))
            return Bound(lambda x: (2 * x, None), lambda dy, cache: 2 * dy, lambda dy, cache: None)

    model = cl.Sequential([Doubled()], input_shape=(3,))
    for n in (2, 2, 5, 2):
        y, tape = model.forward(np.ones((n, 3), np.float32))
        np.testing.assert_array_equal(model.backward(y, tape), 4 * np.ones((n, 3)))
    assert asked == [((n, 3), np.dtype(np.float32), True) for n in (2, 5)]
