"""Checkpoints: a run that stops and goes on is the run that never stopped."""

import numpy as np
import pytest
from training import FIT, At, Counter, bits, small, stop, straight, stripes

import convlayers as cl
from convlayers.errors import ConfigError, DataError, FileAccessError, FileFormatError, RegistryError
from convlayers.trainer import Callback, EarlyStopping, Optimizer, checkpoint, losses

OPTIMIZERS = [cl.SGD(0.1), cl.SGD(0.1, 0.9, True), cl.Adam(), cl.AdamW(), cl.RMSprop(0.01, momentum=0.5, centered=True)]


# Going on to the same bits


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("step", [4, 6])
def test_resumed_in_the_middle(optimizer, step, tmp_path):
    path = tmp_path / "run.safetensors"
    first = cl.Trainer(small(), optimizer=optimizer, seed=3, callbacks=[At(step, stop), cl.Checkpoint(path)])
    first.fit(stripes(), **FIT)
    assert first.step == step
    second = cl.Trainer.resume(path)
    assert (second.fit(stripes(), **FIT), bits(second)) == straight(optimizer)


def test_resumed_between_two_fits(tmp_path):
    first = cl.Trainer(small(), seed=3)
    first.fit(stripes(), **{**FIT, "epochs": 1})
    first.save(tmp_path / "run")
    second = cl.Trainer.resume(tmp_path / "run")
    assert (second.fit(stripes(), **{**FIT, "epochs": 2}), bits(second)) == straight()


def test_resumed_from_before_the_first_step(tmp_path):
    cl.Trainer(small(), seed=3).save(tmp_path / "run")
    second = cl.Trainer.resume(tmp_path / "run")
    assert (second.fit(stripes(), **FIT), bits(second)) == straight()


def test_resumed_from_a_checkpoint_after_an_epoch(tmp_path):
    class Copy(Callback):
        def on_epoch_end(self, trainer, logs):
            trainer.save(tmp_path / str(trainer.epoch))

    cl.Trainer(small(), seed=3, callbacks=[Copy()]).fit(stripes(), **FIT)
    # Two of three epochs: the same call completes the run. After the third the run is over, and a call is a new one.
    second = cl.Trainer.resume(tmp_path / "2")
    assert (second.fit(stripes(), **FIT), bits(second)) == straight()
    third = cl.Trainer.resume(tmp_path / "3")
    third.fit(stripes(), **FIT)
    assert third.epoch == 6


def test_an_unfinished_fit_is_completed_by_the_same_trainer():
    trainer = cl.Trainer(small(), seed=3, callbacks=[At(6, stop)])
    trainer.fit(stripes(), **FIT)
    assert (trainer.epoch, trainer.step) == (1, 6)
    assert (trainer.fit(stripes(), **FIT), bits(trainer)) == straight()


def test_what_must_agree_in_the_middle_of_an_epoch():
    trainer = cl.Trainer(small(), callbacks=[At(6, stop)])
    trainer.fit(stripes(), **FIT)
    with pytest.raises(ConfigError, match=r"batch_size is 8 and the interrupted run stands at batch 2 of 16 samples each"):
        trainer.fit(stripes(), **{**FIT, "batch_size": 8})
    with pytest.raises(DataError, match=r"the data has 40 samples and .* in the middle of an epoch of 50"):
        trainer.fit(stripes(40), **FIT)
    with pytest.raises(ConfigError, match="2 have begun; it must be at least 2; got 1"):
        trainer.fit(stripes(), **{**FIT, "epochs": 1})


def test_loss_metrics_and_optimizer_of_ones_own_are_passed_again(tmp_path):
    def huber(outputs, targets):
        difference = outputs - targets
        small_ones = np.abs(difference) < 1
        values = np.where(small_ones, difference**2 / 2, np.abs(difference) - 0.5)
        return values.mean(), np.where(small_ones, difference, np.sign(difference)) / difference.size

    def worst(outputs, targets):
        return np.abs(outputs - targets).max()

    class Signs(Optimizer):
        def __init__(self, lr):
            super().__init__()
            self.lr = lr

        def update(self, block):
            block.parameter -= self.lr * np.sign(block.gradient)

    data = stripes()[0], stripes()[0].reshape(50, -1)[:, :3]
    runs = [cl.Trainer(small(), huber, Signs(0.01), [worst], callbacks) for callbacks in ([], [At(2, stop)])]
    for run in runs:
        run.fit(data, epochs=1, batch_size=16, progress=False)
    runs[1].save(tmp_path / "run")
    own = {"loss": huber, "metrics": [worst], "optimizer": Signs}
    resumed = cl.Trainer.resume(tmp_path / "run", **own)
    assert resumed.fit(data, epochs=1, batch_size=16, progress=False) == runs[0].history
    assert bits(resumed) == bits(runs[0])
    for key, message in [("loss", "loss of its own: huber"), ("metrics", "metrics of its own: worst"), ("optimizer", "Signs")]:
        with pytest.raises(ConfigError, match=message):
            cl.Trainer.resume(tmp_path / "run", **{**own, key: None})
    with pytest.raises(ConfigError, match="the run has loss huber; got"):
        cl.Trainer.resume(tmp_path / "run", **{**own, "loss": worst})


OPTIONS = [
    losses.CrossEntropy(0.1, [1, 2, 0.5]),
    losses.BCEWithLogits(),
    losses.BCEWithLogits(2.5),
    losses.BCEWithLogits([1, 2, 3]),
    losses.Huber(0.3),
]


@pytest.mark.parametrize("loss", OPTIONS, ids=repr)
def test_a_loss_with_options_comes_back(loss, tmp_path):
    x, y = stripes()
    data = (x, y) if loss.name == "cross_entropy" else (x, np.eye(3)[y])
    runs = [cl.Trainer(small(), loss, callbacks=callbacks) for callbacks in ([], [At(2, stop)])]
    for run in runs:
        run.fit(data, epochs=1, batch_size=16, progress=False)
    runs[1].save(tmp_path / "run")
    resumed = cl.Trainer.resume(tmp_path / "run")
    assert repr(resumed.loss) == repr(loss)
    assert list(resumed.metrics) == (["accuracy"] if loss.name == "cross_entropy" else [])
    assert resumed.fit(data, epochs=1, batch_size=16, progress=False) == runs[0].history
    assert bits(resumed) == bits(runs[0])
    assert repr(cl.Trainer.resume(tmp_path / "run", loss=loss).loss) == repr(loss)


def test_a_loss_of_other_options_is_another_loss(tmp_path):
    cl.Trainer(small(), losses.CrossEntropy(0.1)).save(tmp_path / "run")
    wanted = r"the run has loss CrossEntropy\(label_smoothing=0\.1, class_weights=None\); got "
    for other in ("cross_entropy", losses.CrossEntropy(0.2), losses.Huber()):
        with pytest.raises(ConfigError, match=wanted):
            cl.Trainer.resume(tmp_path / "run", loss=other)


def stopping(path, *callbacks):
    """A run that stops early: nothing gets better after its second epoch."""
    losses = [3.0, 1.0, 2.0, 2.5, 1.5, 0.5]
    metric = lambda outputs, targets: losses[len(trainer.history.get("val_scripted_loss", []))]  # noqa: E731
    metric.__name__ = "scripted_loss"
    early = EarlyStopping("val_scripted_loss", patience=3)
    if path is None:
        trainer = cl.Trainer(small(), seed=3, metrics=[metric], callbacks=[early, *callbacks])
    else:
        trainer = cl.Trainer.resume(path, metrics=[metric], callbacks=[early, *callbacks])
    return trainer


@pytest.mark.parametrize("step", [2, 8, 10, 14])
def test_early_stopping_goes_on_counting(step, tmp_path):
    how = {**FIT, "epochs": 9}
    whole = stopping(None)
    whole.fit(stripes(), **how)
    assert whole.epoch == 5
    first = stopping(None, At(step, stop), cl.Checkpoint(tmp_path / "run"))
    first.fit(stripes(), **how)
    assert first.step == step
    second = stopping(tmp_path / "run")
    assert second.fit(stripes(), **how) == whole.history
    assert bits(second) == bits(whole)
    # The same trainer goes on as well.
    first.callbacks.pop(1)
    assert first.fit(stripes(), **how) == whole.history
    assert bits(first) == bits(whole)
    assert cl.load(tmp_path / "run").state_dict().keys() == whole.model.state_dict().keys()


def test_each_run_of_early_stopping_counts_anew(tmp_path):
    trainer = stopping(None)
    trainer.fit(stripes(), **{**FIT, "epochs": 9})
    trainer.save(tmp_path / "run")
    for again in (trainer, stopping(tmp_path / "run")):
        assert again.epoch == 5
        again.fit(stripes(), **{**FIT, "epochs": 1})
        assert again.epoch == 6


def test_a_resumed_run_may_leave_its_callbacks_behind(tmp_path):
    first = stopping(None, At(6, stop), cl.Checkpoint(tmp_path / "run"))
    first.fit(stripes(), **FIT)
    metric = first.metrics["scripted_loss"]
    resumed = cl.Trainer.resume(tmp_path / "run", metrics=[metric])
    resumed.fit(stripes(), **FIT)
    assert resumed.epoch == 3


# Files


@pytest.fixture
def saved(tmp_path):
    trainer = cl.Trainer(small())
    trainer.fit(stripes(), epochs=1, progress=False)
    trainer.save(tmp_path / "run")
    return tmp_path / "run"


def test_truncated(saved):
    data = saved.read_bytes()
    for size in [0, 7, 8, 100, len(data) // 2, len(data) - 1]:
        saved.write_bytes(data[:size])
        with pytest.raises(FileFormatError):
            cl.Trainer.resume(saved)


def test_one_wrong_byte_is_seen_wherever_it_is(saved):
    data = saved.read_bytes()
    rng = np.random.default_rng(0)
    for place in [*range(16), *rng.integers(0, len(data), 100)]:
        wrong = bytearray(data)
        wrong[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(wrong)
        with pytest.raises(FileFormatError):
            cl.Trainer.resume(saved)


def test_foreign_files(saved, tmp_path):
    small().save(saved)
    with pytest.raises(FileFormatError, match=r"is not a trainer's checkpoint; a saved model is read with convlayers.load"):
        cl.Trainer.resume(saved)
    saved.write_text("not a checkpoint at all")
    with pytest.raises(FileFormatError, match="not a whole safetensors file"):
        cl.Trainer.resume(saved)
    with pytest.raises(FileAccessError, match="cannot read"):
        cl.Trainer.resume(tmp_path / "nothing")


def test_a_section_of_the_wrong_kind(saved):
    arrays, header = checkpoint.unpack(saved)
    for key, value in [
        ("version", 99),
        ("position", {"epoch": "two"}),
        ("position", {"epoch": -1}),
        ("position", 5),
        ("history", [1]),
        ("callbacks", 5),
        ("callbacks", [["EarlyStopping"]]),
        ("callbacks", [["EarlyStopping", 5]]),
        ("callbacks", [["EarlyStopping", {"best": 1.0}]]),
        ("settings", 3),
        ("loss", "mse"),
        ("loss", ["hinge", {}]),
        ("loss", ["huber", {"alpha": 1}]),
        ("loss", ["huber", {"delta": -1}]),
        ("loss", ["mse", True]),
        ("seed", None),
    ]:
        wrong = {**header, "trainer": {**header["trainer"], key: value}}
        saved.write_bytes(checkpoint.pack(arrays, wrong))
        with pytest.raises(FileFormatError, match="run"):
            cl.Trainer.resume(saved, callbacks=[EarlyStopping()])


def test_an_unwritable_checkpoint_fails_before_training(tmp_path):
    trainer = cl.Trainer(small(), callbacks=[cl.Checkpoint(tmp_path / "nowhere" / "run")])
    with pytest.raises(FileAccessError, match="does not exist"):
        trainer.fit(stripes(), progress=False)
    assert trainer.step == 0


def test_a_layer_that_cannot_be_saved_fails_before_training(tmp_path):
    model = cl.Sequential([Counter(), cl.Flatten(), cl.Dense(3)], input_shape=(1, 6, 6))
    trainer = cl.Trainer(model, callbacks=[cl.Checkpoint(tmp_path / "run")])
    with pytest.raises(RegistryError, match="Counter is not registered"):
        trainer.fit(stripes(), progress=False)
    assert trainer.step == 0
