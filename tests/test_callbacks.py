"""Callbacks and Ctrl-C: what is called when, and that nothing is lost."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from training import FIT, At, bits, interrupt, small, stop, straight, stripes

import convlayers as cl
from convlayers.errors import ConfigError
from convlayers.trainer import Callback, EarlyStopping, LearningRateSchedule


@pytest.fixture
def handler():
    """Python's own handler of SIGINT, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


# Ctrl-C


@pytest.mark.parametrize("step", [4, 6])
def test_ctrl_c_ends_the_batch_saves_and_raises(step, tmp_path, handler):
    first = cl.Trainer(small(), seed=3, callbacks=[At(step, interrupt), cl.Checkpoint(tmp_path / "run", every=100)])
    with pytest.raises(KeyboardInterrupt):
        first.fit(stripes(), **FIT)
    assert signal.getsignal(signal.SIGINT) is handler
    assert first.step == step
    second = cl.Trainer.resume(tmp_path / "run")
    assert (second.fit(stripes(), **FIT), bits(second)) == straight()


def test_ctrl_c_in_validation(tmp_path, handler):
    calls = []

    def worst(outputs, targets):
        calls.append(1)
        if len(calls) == 5:  # the first batch of the first validation
            interrupt(None)
        return float(np.abs(outputs).max())

    first = cl.Trainer(small(), seed=3, metrics=[worst], callbacks=[cl.Checkpoint(tmp_path / "run", every=100)])
    with pytest.raises(KeyboardInterrupt):
        first.fit(stripes(), **FIT)
    assert (first.epoch, first.step, first.history) == (0, 4, {})
    second = cl.Trainer.resume(tmp_path / "run", metrics=[worst])
    history = second.fit(stripes(), **FIT)
    assert (history["loss"], history["val_loss"], bits(second)) == (
        *(straight()[0][k] for k in ("loss", "val_loss")),
        straight()[1],
    )


def test_second_ctrl_c_raises_at_once(handler):
    class Never(Callback):
        def on_interrupt(self, trainer):
            raise AssertionError("the second Ctrl-C was not heard")

    def twice(trainer):
        interrupt(trainer)
        interrupt(trainer)

    with pytest.raises(KeyboardInterrupt):
        cl.Trainer(small(), callbacks=[At(2, twice), Never()]).fit(stripes(), **FIT)
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_ignored_ctrl_c_stays_ignored(handler):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainer = cl.Trainer(small(), seed=3, callbacks=[At(2, interrupt)])
    assert (trainer.fit(stripes(), **FIT), bits(trainer)) == straight()


def test_ctrl_c_from_outside(tmp_path):
    program = """
        import signal, sys
        import numpy as np
        import convlayers as cl
        from convlayers.trainer import Callback

        class Ready(Callback):
            def on_batch_end(self, trainer, loss):
                if trainer.step == 3:
                    print("ready", flush=True)

        signal.signal(signal.SIGINT, signal.default_int_handler)
        model = cl.Sequential([cl.Flatten(), cl.Dropout(0.5), cl.Dense(3)], input_shape=(1, 6, 6))
        data = np.ones((50, 1, 6, 6)), np.arange(50) % 3
        trainer = cl.Trainer(model, callbacks=[Ready(), cl.Checkpoint(sys.argv[1], every=10**9)])
        trainer.fit(data, epochs=10**7, batch_size=16, progress=False)
    """
    path = tmp_path / "run"
    command = [sys.executable, "-c", textwrap.dedent(program), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode in (-signal.SIGINT, 130)
    assert "KeyboardInterrupt" in errors
    resumed = cl.Trainer.resume(path)
    assert resumed.step >= 3
    assert resumed.position.run_start == 0
    assert os.listdir(tmp_path) == ["run"]


# Callbacks


def test_checkpoint_every_other_epoch_and_at_the_end(tmp_path, monkeypatch):
    epochs = []
    monkeypatch.setattr(cl.Trainer, "save", lambda self, path: epochs.append(self.epoch))
    cl.Trainer(small(), callbacks=[cl.Checkpoint(tmp_path / "run", every=2)]).fit(stripes(), epochs=5, progress=False)
    assert epochs == [2, 4, 5]


def test_callbacks_are_called_in_order():
    calls = []

    class Log(Callback):
        def on_fit_begin(self, trainer):
            calls.append("begin")

        def on_batch_end(self, trainer, loss):
            assert np.isfinite(loss)
            calls.append(trainer.step)

        def on_epoch_end(self, trainer, logs):
            assert logs == {name: values[-1] for name, values in trainer.history.items()}
            calls.append("epoch")
            trainer.stop = trainer.epoch == 2

        def on_fit_end(self, trainer):
            calls.append("end")

    trainer = cl.Trainer(small(), callbacks=[Log()])
    trainer.fit(stripes(), epochs=9, batch_size=32, progress=False)
    assert calls == ["begin", 1, 2, "epoch", 3, 4, "epoch", "end"]
    assert trainer.position.run_start is None


def test_early_stopping_puts_the_best_weights_back():
    losses = iter([3.0, 1.0, 2.0, 2.0, 0.5])
    states = []

    class Scripted(Callback):
        def on_epoch_end(self, trainer, logs):
            logs["val_loss"] = next(losses)
            stopping.on_epoch_end(trainer, logs)
            states.append(bits(trainer))

        def on_fit_begin(self, trainer):
            stopping.on_fit_begin(trainer)

        def on_fit_end(self, trainer):
            stopping.on_fit_end(trainer)

    stopping = EarlyStopping(patience=2)
    trainer = cl.Trainer(small(), callbacks=[Scripted()])
    trainer.fit(stripes(), epochs=9, progress=False)
    assert trainer.epoch == 4
    assert bits(trainer) == states[1]
    with pytest.raises(ConfigError, match='an epoch has loss, accuracy, not "val_loss"'):
        cl.Trainer(small(), callbacks=[EarlyStopping()]).fit(stripes(), progress=False)


def test_learning_rate_schedule():
    rates = []

    class Log(Callback):
        def on_batch_end(self, trainer, loss):
            rates.append(trainer.optimizer.lr)

    schedule = LearningRateSchedule(lambda epoch: 0.1 / (1 + epoch))
    cl.Trainer(small(), optimizer=cl.SGD(5.0), callbacks=[schedule, Log()]).fit(stripes(), epochs=3, progress=False)
    assert rates == [0.1, 0.05, 0.1 / 3]
    with pytest.raises(ConfigError, match="epoch 0 got -1"):
        cl.Trainer(small(), callbacks=[LearningRateSchedule(lambda epoch: -1)]).fit(stripes(), progress=False)


def test_a_learning_rate_schedule_may_reach_zero_where_the_run_ends():
    asked = []

    def cosine(epoch):
        asked.append(epoch)
        return 0.1 * (1 + np.cos(np.pi * epoch / 3)) / 2

    trainer = cl.Trainer(small(), optimizer=cl.SGD(5.0), callbacks=[LearningRateSchedule(cosine)])
    trainer.fit(stripes(), epochs=3, progress=False)
    assert asked == [0, 1, 2]
    assert trainer.optimizer.lr == pytest.approx(0.025)
    with pytest.raises(ConfigError, match=r"epoch 3 got .*0\.0"):
        trainer.fit(stripes(), epochs=1, progress=False)


def test_a_learning_rate_schedule_goes_on_after_an_interruption(tmp_path):
    schedule = LearningRateSchedule(lambda epoch: 0.1 / (1 + epoch))
    first = cl.Trainer(small(), optimizer=cl.SGD(5.0), callbacks=[schedule, At(6, stop)], seed=3)
    first.fit(stripes(), **FIT)
    first.save(tmp_path / "run")
    second = cl.Trainer.resume(tmp_path / "run", callbacks=[schedule])
    second.fit(stripes(), **FIT)
    whole = cl.Trainer(small(), optimizer=cl.SGD(5.0), callbacks=[schedule], seed=3)
    whole.fit(stripes(), **FIT)
    assert (second.epoch, bits(second)) == (3, bits(whole))
