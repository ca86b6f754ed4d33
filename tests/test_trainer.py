"""Training: that it learns, what it reports and shows, and the same bits."""

import io
import sys
import threading

import numpy as np
import pytest
from training import bits, fitted, small, stripes

import convlayers as cl
from convlayers import kernels
from convlayers.errors import ArrayTypeError, ConfigError, DataError

# Learning


def test_learns_real_digits():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed (the extra digits)")
    digits = datasets.load_digits()
    x, y = digits.images[:, None].astype(np.uint8), digits.target
    trainer = cl.Trainer(cl.models.digits_cnn(), optimizer=cl.Adam(lr=2e-3))
    with kernels.using(threads=1):
        history = trainer.fit((x[:1400], y[:1400]), epochs=5, validation=(x[1400:], y[1400:]), progress=False)
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert all(len(values) == 5 for values in history.values())
    assert history["loss"][-1] < history["loss"][0] / 4
    assert history["val_accuracy"][-1] > 0.85


@pytest.mark.parametrize("optimizer", [cl.SGD(0.1, 0.9, True), cl.Adam(0.01), cl.AdamW(0.01), cl.RMSprop(0.005)], ids=repr)
def test_every_optimizer_learns(optimizer):
    trainer = cl.Trainer(small(), optimizer=optimizer)
    trainer.fit(stripes(), epochs=20, batch_size=16, progress=False)
    assert trainer.evaluate(stripes())["accuracy"] > 0.95


def test_learns_labels_of_pixels():
    x, _ = stripes()
    y = (x[:, 0] > 0.5).astype(np.uint8)
    model = cl.Sequential([cl.Conv2d(8, 1), cl.ReLU(), cl.Conv2d(2, 1)], input_shape=(1, 6, 6))
    history = cl.Trainer(model, optimizer=cl.Adam(0.05)).fit((x, y), epochs=15, batch_size=16, progress=False)
    assert history["accuracy"][-1] > 0.97


def test_learns_a_regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 4))
    y = x @ np.array([[1.0], [-2], [0.5], [3]])
    trainer = cl.Trainer(cl.Sequential([cl.Dense(1)], input_shape=(4,)), loss="mse", optimizer=cl.SGD(0.1, 0.9))
    history = trainer.fit((x, y), epochs=60, batch_size=16, progress=False)
    assert list(history) == ["loss"]
    assert history["loss"][-1] < 1e-6


# What is reported


def test_evaluate_and_predict_agree():
    x, y = stripes()
    trainer = fitted((x, y))
    outputs = trainer.predict(x, batch_size=7)
    assert outputs.shape == (50, 3)
    assert outputs.dtype == np.float32
    assert np.array_equal(outputs, trainer.predict(x))
    result = trainer.evaluate((x, y), batch_size=7)
    assert result["accuracy"] == (outputs.argmax(axis=1) == y).mean()
    assert result["loss"] == pytest.approx(trainer.loss(outputs, y)[0])


def test_history_is_the_mean_over_samples():
    # A learning rate too small to move anything, and no dropout: the epoch's loss is evaluate's, short last batch or not.
    trainer = cl.Trainer(small(p=0.0), optimizer=cl.SGD(1e-30))
    before = trainer.evaluate(stripes())
    history = trainer.fit(stripes(), epochs=1, batch_size=16, validation=stripes(), progress=False)
    for key, value in before.items():
        assert history[key] == [pytest.approx(value)]
        assert history[f"val_{key}"] == [pytest.approx(value)]
    history["loss"].clear()
    assert len(trainer.history["loss"]) == 1


def test_every_sample_is_seen_once_an_epoch_in_an_order_of_its_own():
    seen = []

    def loss(outputs, targets):
        seen.extend(targets)
        return 0.0, np.zeros_like(outputs)

    trainer = cl.Trainer(small(), loss=loss)
    trainer.fit((stripes()[0], np.arange(50)), epochs=2, batch_size=16, progress=False)
    first, second = seen[:50], seen[50:]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second != list(range(50))


def test_loss_and_metrics_of_ones_own():
    def mse(outputs, targets):
        return np.float32(((outputs - targets) ** 2).mean()), 2 * (outputs - targets) / outputs.size

    def largest(outputs, targets):
        return np.abs(outputs - targets).max()

    x = stripes()[0]
    y = x.reshape(50, -1)[:, :3]
    own = cl.Trainer(small(), loss=mse, metrics=[largest])
    history = own.fit((x, y), epochs=2, progress=False)
    assert list(history) == ["loss", "largest"]
    ours = cl.Trainer(small(), loss="mse")
    assert ours.fit((x, y), epochs=2, progress=False)["loss"] == pytest.approx(history["loss"])


def test_several_inputs_and_outputs():
    a, b = cl.Input((4,)), cl.Input((4,))
    model = cl.Model([a, b], [cl.Dense(2)(a), cl.Dense(3)(cl.Add()(a, b))])

    def loss(outputs, targets):
        return sum(float((o**2).mean()) for o in outputs), [2 * o / o.size for o in outputs]

    x = [np.ones((10, 4)), np.zeros((10, 4), np.uint8)]
    trainer = cl.Trainer(model, loss=loss)
    history = trainer.fit((x, np.zeros(10)), epochs=20, batch_size=4, progress=False)
    assert history["loss"][-1] < history["loss"][0]
    assert [o.shape for o in trainer.predict(x)] == [(10, 2), (10, 3)]
    with pytest.raises(ArrayTypeError, match="x is a list of 2 arrays"):
        trainer.predict([x[0]])
    with pytest.raises(DataError, match=r"x\[1\] has 9 samples and x\[0\] has 10"):
        trainer.predict([x[0], x[1][:9]])
    with pytest.raises(ConfigError, match="cross_entropy takes one output and the model has 2"):
        cl.Trainer(model).fit((x, np.zeros(10, int)), progress=False)


def test_predict_of_nothing():
    assert cl.Trainer(small()).predict(np.zeros((0, 1, 6, 6))).shape == (0, 3)


# The same bits


@pytest.mark.parametrize("threads", [2, 3])
def test_same_bits_for_any_number_of_threads(threads):
    rng = np.random.default_rng(0)
    data = rng.random((160, 1, 8, 8), np.float32), rng.integers(0, 10, 160)
    runs = []
    for count in (1, threads):
        with kernels.using(threads=count):
            trainer = cl.Trainer(cl.models.digits_cnn())
            runs.append((trainer.fit(data, epochs=2, progress=False), bits(trainer)))
    assert runs[0] == runs[1]


def test_the_seed_decides():
    data = stripes()
    assert bits(fitted(data)) == bits(fitted(data))
    assert bits(fitted(data)) != bits(fitted(data, seed=1))


def test_the_seed_reaches_the_layers_that_draw():
    # One batch of everything: the order of the samples changes nothing but the masks' places.
    x, y = stripes()
    same = np.broadcast_to(x[:1], x.shape), np.zeros_like(y)
    assert bits(fitted(same, batch_size=50)) != bits(fitted(same, batch_size=50, seed=1))


def test_each_step_draws_anew():
    seen = []

    def loss(outputs, targets):
        seen.append(outputs.copy())
        return 0.0, np.zeros_like(outputs)

    x, y = stripes()
    cl.Trainer(small(), loss=loss).fit((x[:1], y[:1]), epochs=3, progress=False)
    assert len({outputs.tobytes() for outputs in seen}) == 3


def test_two_fits_are_one():
    parts = cl.Trainer(small())
    parts.fit(stripes(), epochs=1, batch_size=16, progress=False)
    parts.fit(stripes(), epochs=1, batch_size=16, progress=False)
    assert bits(parts) == bits(fitted(stripes()))
    assert len(parts.history["loss"]) == 2


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x.astype(np.float64),
        lambda x: x.astype(">f4"),
        lambda x: x.astype(np.float16),
        lambda x: x.astype(np.uint8),
        lambda x: x.astype(">i8"),
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=3)[..., ::2],
        lambda x: np.lib.stride_tricks.as_strided(x, writeable=False),
        lambda x: x.tolist(),
    ],
)
def test_any_real_array_is_read_rightly(form):
    x, y = stripes()
    x = np.round(x * 10).clip(0, 200)
    assert bits(fitted((form(x), y.astype(">i2")))) == bits(fitted((x, y)))


def test_a_batch_may_be_larger_than_the_data():
    assert bits(fitted(stripes(), batch_size=1000)) == bits(fitted(stripes(), batch_size=50))


def test_two_trainers_share_no_optimizer_state():
    optimizer = cl.Adam(0.01)
    runs = []
    for _ in range(2):
        trainer = cl.Trainer(small(), optimizer=optimizer)
        trainer.fit(stripes(), epochs=1, progress=False)
        runs.append(bits(trainer))
    assert runs[0] == runs[1]


# What is shown


def test_silence_and_lines(capsys):
    fitted(stripes(), progress=False)
    assert capsys.readouterr() == ("", "")
    fitted(stripes(), progress=None, validation=stripes())
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all(name in lines[0] for name in ("loss ", "accuracy ", "val_loss ", "val_accuracy "))


def test_bar(capsys, monkeypatch):
    fitted(stripes(), progress=True)
    assert "epoch 2/2: 100%" in capsys.readouterr().err

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    fitted(stripes(), progress=None)
    assert "epoch 2/2: 100%" in sys.stderr.getvalue()
    assert "4/4" in sys.stderr.getvalue()


def test_fit_in_a_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(bits(fitted(stripes()))))
    thread.start()
    thread.join()
    assert results == [bits(fitted(stripes()))]
