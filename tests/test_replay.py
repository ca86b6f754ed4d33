"""Passes that are recorded and run again: the same bits as layer by layer, whatever goes in and whatever changes meanwhile."""

import copy
import gc
import pickle
import threading

import numpy as np
import pytest
from convlayers.kernels._memory import Arena, Block, use

import convlayers as cl
from convlayers import kernels
from convlayers.errors import ConfigError, ShapeError
from convlayers.kernels import memory
from convlayers.kernels.recording import Recording
from convlayers.layer import can_replay
from convlayers.model import passes
from convlayers.testing.machine import assert_same

MODELS = ("digits_cnn", "lenet5", "mnist_cnn", "vgg_small", "resnet20", "mobilenet_small")


def drawn(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def small(*layers, shape=(3, 9, 8)):
    return cl.Sequential([*layers, cl.Flatten(), cl.Dense(4)], input_shape=shape)


def poison(model):
    """NaN into every array of the recordings' own, as it is before a forward pass."""
    step, inference = model.passes._training.recorded, model.passes._inference.recorded
    replays = [inference] if step is None else [inference, step.forward, *step.backward.values()]
    for replay in filter(None, replays):
        for _, args in replay.recording._calls:
            spoil(args)


def spoil(value):
    if isinstance(value, tuple):
        for part in value:
            spoil(part)
    elif isinstance(value, np.ndarray) and isinstance(value.base, Block):
        value.fill(np.nan if value.dtype.kind == "f" else 1)


def train(model, inputs, *, replay, input_gradient=True, change=lambda model: None):
    """What steps of training and inference on these inputs give, parameters moving in between."""
    results = []
    with kernels.using(replay=replay):
        for number, x in enumerate(inputs):
            poison(model)
            model.zero_gradients()
            y, tape = model.forward(x, step=number)
            dx = model.backward(drawn(y.shape, number, y.dtype), tape, input_gradient=input_gradient)
            for name, gradient in model.gradients().items():
                model.parameters()[name][...] -= np.float32(0.01) * gradient
            results += [y, model(x), *(a.copy() for a in (*model.gradients().values(), *model.buffers().values()))]
            results += [] if dx is None else [dx]
            change(model)
    return results


def replayed(model):
    """Whether inference, and training both ways, are recorded."""
    step = model.passes._training.recorded
    back = step is not None and all(replay is not None for replay in step.backward.values())
    return model.passes._inference.recorded is not None and back


def assert_replayed(make, shape, what, *, recorded=True, **how):
    """The bits of layers one by one, by a model that was recorded, or not as the test has it."""
    inputs = [drawn(shape, seed) for seed in range(5)]
    apart, together = make(), make()
    expected = train(apart, inputs, replay=False, **how)
    assert_same(train(together, inputs, replay=True, **how), expected, what)
    assert not replayed(apart)
    assert recorded is None or replayed(together) == recorded, f"{what}: recorded is {not recorded}"


@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("name", MODELS)
def test_steps_of_models(name, isa):
    make = getattr(cl.models, name)
    with kernels.using(isa=isa):
        for input_gradient in (True, False):
            assert_replayed(make, (3, *make().input_shape), f"{name} under {isa}", input_gradient=input_gradient)


HOW = [
    {"stride": stride, "groups": groups, "algorithm": algorithm}
    for stride, groups, algorithm in (
        (1, 1, "direct"),
        (2, 1, "direct"),
        (1, 1, "winograd"),
        (2, 1, "winograd"),
        (1, 8, "direct"),
        (1, 8, "winograd"),
    )
]
BEHIND = [
    lambda: [cl.ReLU()],
    lambda: [cl.BatchNorm2d(), cl.Clip(0, 0.5)],
    lambda: [cl.BatchNorm2d(), cl.ReLU(), cl.MaxPool2d(2)],
]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("kernel", [1, 3, 4, 5, 7])
def test_convolutions_and_what_they_take_over(kernel, how):
    """Few filters and more, whose gradients have other kernels; a bias beside a normalization; a clip and a maximum."""
    too_large = (kernel > 3 and how["groups"] > 1) or (kernel > 6 and how["stride"] > 1)
    if how["algorithm"] == "winograd" and (kernel < 3 or too_large):
        how = {**how, "algorithm": "auto"}
    for filters in (8, 24):
        for behind in BEHIND:

            def make(filters=filters, behind=behind):
                return small(cl.Conv2d(filters, kernel, padding=2, **how), *behind(), shape=(8, 10, 10))

            assert_replayed(make, (3, 8, 10, 10), f"{filters} filters, then {behind()}")


def test_values_that_are_not_finite_later():
    """The kernel for few filters leaves those to another: which one it is follows from values."""
    make = lambda: small(cl.Conv2d(3, 3, padding=1), cl.ReLU())  # noqa: E731
    inputs = [drawn((4, 3, 9, 8), seed) for seed in range(6)]
    inputs[4][1, 2, 0, 0], inputs[5][0, 0, 8, 7] = np.inf, np.nan
    together = make()
    with np.errstate(all="ignore"):
        assert_same(train(together, inputs, replay=True), train(make(), inputs, replay=False), "infinity and NaN")
    assert replayed(together)


@pytest.mark.parametrize("algorithm", ["fft", "einsum"])
def test_what_numpy_computes_is_not_recorded(algorithm):
    make = lambda: small(cl.Conv2d(4, 5, algorithm=algorithm), cl.BatchNorm2d(), cl.ReLU())  # noqa: E731
    assert_replayed(make, (3, 3, 9, 8), algorithm, recorded=False)


@pytest.mark.parametrize(
    "layer",
    [lambda: cl.MixedPool2d(2), lambda: cl.LRN(3), lambda: cl.Abs(), lambda: cl.AvgPool2d(2, dilation=2)],
    ids=["nobody said so", "computes by NumPy", "one of many", "dilated"],
)
def test_layers_that_are_not_recorded(layer):
    assert_replayed(lambda: small(cl.Conv2d(4, 3), layer()), (3, 3, 9, 8), repr(layer()), recorded=False)


@pytest.mark.parametrize("layer", [cl.Dropout, cl.Dropout2d])
def test_dropout_draws_anew(layer):
    results = []
    for replay in (False, True):
        model, x = small(cl.Conv2d(6, 3), layer(0.5), cl.ReLU(), layer(0.3)), drawn((4, 3, 9, 8))
        results.append([])
        with kernels.using(replay=replay):
            for step in (None, None, 7, 5, None, 7):
                y, tape = model.forward(x, step=step, seed=5)
                results[-1] += [y, model.backward(np.ones_like(y), tape), model(x)]
        assert replayed(model) == replay
    assert_same(results[1], results[0], layer.__name__)
    masks = [y.tobytes() for y in results[1][::3]]
    assert len(set(masks)) == 5, "another mask at every step"
    assert masks[2] == masks[5], "the same one at the same step"


def test_a_decoder():
    """Transposed convolutions, with a bias beside a normalization, and pooling of several kinds."""

    def make():
        up = cl.ConvTranspose2d(4, 2, stride=2)
        layers = [cl.AvgPool2d(2), up, cl.BatchNorm2d(), cl.ReLU(), cl.MaxPool2d(2), cl.ConvTranspose2d(3, 3), cl.LeakyReLU()]
        return small(*layers, cl.AdaptiveAvgPool2d(2), shape=(3, 8, 8))

    assert_replayed(make, (3, 3, 8, 8), "a decoder")


def test_gates():
    """Sums and products of samples of unequal shapes, as squeeze-and-excitation has them."""

    def make():
        x = cl.Input((6, 5, 4))
        y = cl.Conv2d(6, 3, padding=1)(x)
        gates = cl.Sigmoid()(cl.Conv2d(6, 1)(cl.GlobalAvgPool2d()(y)))
        bias = cl.GlobalMaxPool2d()(y)
        return cl.Model(x, cl.Dense(3)(cl.Flatten()(cl.Add()(cl.Multiply()(y, gates), bias, cl.Subtract()(y, x)))))

    assert_replayed(make, (3, 6, 5, 4), "gates")


def test_graphs():
    """Residuals, sums of gradients, several inputs and outputs."""

    def make():
        left, right = cl.Input((4, 6, 6)), cl.Input((4, 6, 6))
        x = cl.Add()(cl.Conv2d(4, 3, padding=1)(left), right)
        y = cl.Add()(cl.BatchNorm2d()(cl.Conv2d(4, 3, padding=1)(cl.ReLU()(x))), x)
        joint = cl.Concat()(cl.ReLU()(y), x, right)
        return cl.Model([left, right], [cl.GlobalAvgPool2d()(joint), cl.Softmax()(cl.Dense(3)(cl.Flatten()(y)))])

    results = {}
    for replay in (False, True):
        model, results[replay] = make(), []
        with kernels.using(replay=replay):
            for step in range(5):
                xs = [drawn((3, 4, 6, 6), 2 * step + n) for n in (0, 1)]
                ys, tape = model.forward(xs, step=step)
                back = model.backward([drawn(y.shape, step) for y in ys], tape)
                results[replay] += [*ys, *back, *model(xs), *(g.copy() for g in model.gradients().values())]
        assert replayed(model) == replay
    assert_same(results[True], results[False], "a graph")


def test_an_output_that_is_listed_twice():
    x = cl.Input((5,))
    y = cl.Dense(4)(x)
    model = cl.Model(x, [y, y])
    for step in range(4):
        outputs, tape = model.forward(drawn((3, 5), step), step=step)
        model.zero_gradients()
        model.backward([drawn((3, 4), 1), drawn((3, 4), 2)], tape)
        expected = (drawn((3, 4), 1) + drawn((3, 4), 2)).sum(axis=0)
        np.testing.assert_allclose(model.gradients()["dense.bias"], expected, rtol=1e-5)
        assert_same(outputs[1:], outputs[:1], "the two")


def test_what_comes_out_and_goes_in_is_the_callers():
    model, xs = cl.models.digits_cnn(), [drawn((4, 1, 8, 8), seed) for seed in range(5)]
    expected = train(cl.models.digits_cnn(), xs, replay=False)
    results = []
    for number, x in enumerate(xs):
        model.zero_gradients()
        given, dy = x.copy(), drawn((4, 10), number)
        y, tape = model.forward(given, step=number)
        dx = model.backward(dy, tape)
        given.fill(np.nan)
        dy.fill(np.nan)
        for name, gradient in model.gradients().items():
            model.parameters()[name][...] -= np.float32(0.01) * gradient
        results += [y, model(x), *(g.copy() for g in model.gradients().values()), dx]
    assert replayed(model)
    assert_same(results, expected, "kept to the end, inputs overwritten")


def test_arrays_exchanged_after_a_recording():
    """Another array, another type, a bias that comes: the values that are there now are used, and recorded anew."""
    exchanges = (
        lambda model: model.load_state_dict({name: 1.5 * array for name, array in model.state_dict().items()}),
        lambda model: [setattr(layer, "params", {k: 1.5 * a for k, a in layer.params.items()}) for _, layer in model.layers()],
        lambda model: [layer.params.update({k: 2 * a for k, a in layer.params.items()}) for _, layer in model.layers()],
        lambda model: [layer.buffers.update({k: 2 * a for k, a in layer.buffers.items()}) for _, layer in model.layers()],
        lambda model: [layer.grads.update({k: a.copy() for k, a in layer.grads.items()}) for _, layer in model.layers()],
    )
    for number, exchange in enumerate(exchanges):
        make = lambda: small(cl.Conv2d(4, 3), cl.BatchNorm2d(), cl.ReLU())  # noqa: E731
        assert_replayed(make, (3, 3, 9, 8), f"exchange {number}", recorded=None if number else True, change=exchange)
    model = small(cl.Conv2d(4, 3))
    for seed in range(4):
        model(drawn((2, 3, 9, 8), seed))
    _, dense = list(model.layers())[-1]
    dense.params["weight"] = np.zeros((4, 7), np.float32)
    with pytest.raises(ShapeError, match=r"weight \(4, 7\)"):
        model(drawn((2, 3, 9, 8)))


def test_gradients_exchanged_between_the_passes():
    model = small(cl.Conv2d(4, 3))
    for step in range(4):
        y, tape = model.forward(drawn((2, 3, 9, 8), step), step=step)
        for _, layer in model.layers():
            layer.grads = {name: np.zeros_like(array) for name, array in layer.params.items()}
        model.backward(np.ones_like(y), tape)
        np.testing.assert_allclose(model.gradients()["2.bias"], 2, rtol=1e-6)


def recorded_model():
    model = cl.models.digits_cnn()
    for step in range(3):
        y, tape = model.forward(drawn((4, 1, 8, 8), step), step=step)
        model.backward(np.ones_like(y), tape)
        model(drawn((4, 1, 8, 8), step))
    assert replayed(model)
    return model


def test_two_passes_under_way():
    """The second one does not overwrite what the first one left, until that was read; a tape that is stale says so."""
    model, apart = recorded_model(), recorded_model()
    xs, dy = [drawn((4, 1, 8, 8), seed) for seed in (7, 8)], drawn((4, 10), 9)
    tapes = [model.forward(x, step=5)[1] for x in xs]
    gradients = [model.backward(dy, tape) for tape in (*tapes, tapes[1])]
    with kernels.using(replay=False):
        expected = [apart.backward(dy, apart.forward(x, step=5)[1]) for x in (*xs, xs[1])]
    assert_same(gradients, expected, "two tapes, the second one read twice")
    model.backward(dy, tapes[0])
    model.forward(xs[1], step=6)
    with pytest.raises(ConfigError, match="a tape that was read serves until the model's next forward pass in training"):
        model.backward(dy, tapes[0])
    model.backward(dy, tapes[1])


def test_bad_input_after_a_recording():
    model = recorded_model()
    for wrong, message in ((np.zeros((4, 1, 8, 9), np.float32), r"\(1, 8, 8\)"), (np.zeros((4, 8, 8)), r"\(1, 8, 8\)")):
        for run in (model, model.forward):
            with pytest.raises(ShapeError, match=message):
                run(wrong)
    y, tape = model.forward(drawn((4, 1, 8, 8)))
    with pytest.raises(ShapeError, match=r"dy must have the output's shape \(4, 10\); got \(4, 9\)"):
        model.backward(np.ones((4, 9), np.float32), tape)
    assert model.backward(np.ones((4, 10)), tape).shape == (4, 1, 8, 8), "float64 is converted"
    assert model(list(drawn((4, 1, 8, 8)))).shape == y.shape, "lists are arrays"


def test_other_settings():
    model = recorded_model()
    x = drawn((4, 1, 8, 8), 11)
    with kernels.using(replay=False):
        expected = model(x)
    for threads in (1, 2, 3):
        with kernels.using(threads=threads):
            assert_same([model(x)], [expected], f"{threads} threads")
    for isa in kernels.available():
        with kernels.using(isa=isa):
            np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5)
    assert model(x.astype(np.float64)).dtype == np.float64
    with memory.poisoned():
        assert_same([model(x)], [expected], "poisoned")


def test_what_needs_much_memory_is_not_recorded(monkeypatch):
    inputs = [drawn((4, 1, 8, 8), seed) for seed in range(4)]
    expected = train(cl.models.digits_cnn(), inputs, replay=False)
    for most in (1 << 20, 1 << 10):
        for name in ("MOST_OF_INFERENCE", "MOST_OF_TRAINING"):
            monkeypatch.setattr(passes, name, most)
        model = cl.models.digits_cnn()
        assert_same(train(model, inputs, replay=True), expected, f"at most {most} bytes")
        assert (model.passes._inference.recorded is not None) == (most > 1 << 10)
        assert (model.passes._training.recorded is not None) == (most > 1 << 10)


def test_two_python_threads():
    model, xs = recorded_model(), [drawn((4, 1, 8, 8), seed) for seed in range(8)]
    with kernels.using(replay=False):
        expected = [model(x) for x in xs]
    wrong = []

    def infer(number):
        for _ in range(200):
            if not np.array_equal(model(xs[number]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=infer, args=(number,)) for number in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_batches_that_change_are_not_recorded_and_the_recorded_one_stays():
    model = recorded_model()
    kept = model.passes._inference.recorded
    for n in (1, 2, 4, 0, 3, 4, 1, 4):
        x = drawn((n, 1, 8, 8), n)
        assert model(x).shape == (n, 10)
        assert model.passes._inference.recorded is kept
    model(drawn((2, 1, 8, 8)))
    model(drawn((2, 1, 8, 8)))
    assert model.passes._inference.recorded is not kept


def test_recordings_that_do_not_pay_are_made_less_often():
    model, made = cl.models.digits_cnn(), []
    for n in [2, 2, 3, 3] * 32:
        model(drawn((n, 1, 8, 8), n))
        if model.passes._inference.recorded not in made:
            made.append(model.passes._inference.recorded)
    assert len(made) == 3, "none at first, then two"
    for _ in range(40):
        model(drawn((5, 1, 8, 8)))
    assert model.passes._inference.recorded not in made, "one that does pay"


def test_copies_and_frozen_parameters():
    model = recorded_model()
    x = drawn((4, 1, 8, 8), 3)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same([twin(x)], [model(x)], "a copy")
        assert twin.passes._inference.recorded is None
    model.freeze("0")
    frozen = {name: array.copy() for name, array in model.gradients().items()}
    for step in range(4):
        y, tape = model.forward(x, step=step)
        model.backward(np.ones_like(y), tape)
    np.testing.assert_array_equal(model.gradients()["0.weight"], np.zeros_like(frozen["0.weight"]))
    assert not np.array_equal(model.gradients()["3.weight"], frozen["3.weight"])


def test_memory_goes_back_with_the_model():
    used = []
    for steps in (1, 4, 4):  # first, what kernels keep for themselves
        model = cl.models.mnist_cnn()
        for step in range(steps):
            y, tape = model.forward(drawn((16, 1, 28, 28), step), step=step)
            model.backward(y, tape)
        recorded = model.passes._training.recorded
        assert (recorded is not None) == (steps > 1)
        held = memory.usage()[0]
        del model, y, tape, recorded
        gc.collect()
        used.append(memory.usage()[0])
        assert used[-1] < held
    assert used[1] == used[2]


class Halved(cl.Conv2d):
    """Passes of its own, which nobody said may be recorded."""

    def forward(self, x, *, training):
        return super().forward(x / 2, training=training)


def test_a_class_beneath_a_recorded_one_answers_for_itself():
    assert can_replay(cl.Conv2d(4, 3))
    assert not can_replay(Halved(4, 3))
    x = drawn((2, 3, 9, 8))
    model = small(Halved(4, 3))
    for scale in (1, 2, 3, 4):
        with kernels.using(replay=False):
            expected = model(np.float32(scale) * x)
        assert_same([model(np.float32(scale) * x)], [expected], "halved")


# The parts underneath.


def address(array):
    return array.__array_interface__["data"][0]


def test_an_arena_hands_memory_on_and_keeps_it():
    arena = Arena()
    before = use(arena)
    try:
        first = memory.empty((5, 7), np.dtype(np.float32))
        first[...] = np.arange(35).reshape(5, 7)
        part, where = arena.lasting(first[1:, ::2]), address(first)
        assert_same([part], [first[1:, ::2]], "a view of a view")
        other = memory.empty((5, 7), np.dtype(np.float32))
        assert address(other) != where
        del first
        second = memory.empty((35,), np.dtype(np.float32))
        assert address(second) == where
        second.fill(3)
        np.testing.assert_array_equal(part, np.full((4, 4), 3))
        assert address(memory.empty((2,), np.dtype(np.float32))) != where
    finally:
        assert use(before) is arena
    assert arena.lasting(np.zeros(3)) is None
    assert Arena().lasting(second) is None, "another arena's"
    assert memory.empty((3,), np.dtype(np.float32)).base is None
    with pytest.raises(TypeError):
        use(3)


def test_a_recording_that_reads_what_nobody_wrote_down_is_not_complete():
    known, x = np.ones(4, np.float32), np.arange(4, dtype=np.float32)
    with Recording([known]) as recording:
        own = memory.empty((4,), np.dtype(np.float32))
        kernels.run(np.copyto, own, kernels.constant(x))
        kernels.run(np.add, own, known[::-1], own)
    assert recording.complete
    own.fill(0)
    known.fill(5)
    recording.replay()
    np.testing.assert_array_equal(own, x + 5)
    with Recording([known]) as recording:
        kernels.run(np.add, own, np.ones(4, np.float32), known)
    assert not recording.complete
    with Recording([known]) as recording:
        kernels.unrecordable()
    assert not recording.complete


def test_a_pass_that_fails_is_not_recorded():
    model = small(cl.Conv2d(4, 3))
    x = drawn((2, 3, 9, 8))
    model(x)
    _, dense = list(model.layers())[-1]
    weight, dense.params["weight"] = dense.params["weight"], np.zeros((4, 7), np.float32)
    with pytest.raises(ShapeError):
        model(x)
    assert memory.empty((3,), np.dtype(np.float32)).base is None, "the arena is not in use any more"
    dense.params["weight"] = weight
    with kernels.using(replay=False):
        expected = model(x)
    for _ in range(3):
        assert_same([model(x)], [expected], "after a failure")
