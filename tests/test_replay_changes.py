"""Passes that are recorded, and what changes meanwhile: arrays, shapes, settings, threads, tapes."""

import copy
import gc
import pickle
import threading

import numpy as np
import pytest
from replays import assert_replayed, drawn, replayed, small, train

import convlayers as cl
from convlayers import kernels
from convlayers.errors import ConfigError, ShapeError
from convlayers.kernels import memory
from convlayers.layer import can_replay
from convlayers.model import passes
from convlayers.testing.machine import assert_same


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
