"""What training refuses: bad data by its index, bad arguments, and a loss that is not finite by its layer."""

import numpy as np
import pytest
from training import At, Counter, bits, small, stripes

import convlayers as cl
from convlayers.errors import ArrayTypeError, ConfigError, DataError, NotFiniteError, ShapeError
from convlayers.trainer import data

# The door


def changed(index, value, dtype=np.float32):
    x, y = stripes()
    x = x.astype(dtype)
    x[index] = value
    return x, y


BAD = [
    (lambda x, y: changed((17, 0, 2, 3), np.nan), DataError, r"fit: x must be finite; sample 17, position \(0, 2, 3\) is nan"),
    (lambda x, y: changed((49, 0, 5, 5), -np.inf), DataError, "sample 49, .* is -inf"),
    (lambda x, y: changed((3, 0, 0, 0), 1e39, np.float64), DataError, r"sample 3, .* is 1e\+39, more than float32 holds"),
    (lambda x, y: (x[:0], y[:0]), DataError, "fit: there are no samples"),
    (lambda x, y: (x, y[:49]), DataError, "x has 50 samples and y has 49; they part at index 49"),
    (lambda x, y: (x, y.astype(float)), DataError, "fit: labels are integers from 0 to 2; got dtype float64, 0.0 at index 0"),
    (lambda x, y: (x, y + 1), DataError, "got 3 at index 2"),
    (lambda x, y: (x, 3), DataError, "y is an array with a batch axis"),
    (lambda x, y: (x[:, 0], y), ShapeError, r"x holds samples of shape \(1, 6, 6\), so \(N, 1, 6, 6\); got \(50, 6, 6\)"),
    (lambda x, y: (np.repeat(x, 3, axis=1), y), ShapeError, r"got \(50, 3, 6, 6\)"),
    (lambda x, y: (x.astype(complex), y), ArrayTypeError, "x must hold real numbers; got dtype complex128"),
    (lambda x, y: ([[1, 2], [3]], y), ArrayTypeError, "x is not a rectangular array"),
    (lambda x, y: x, DataError, r"fit: data is a pair \(x, y\); got ndarray"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_data_is_named_before_training(change, error, message, monkeypatch):
    # Ten samples at a time.
    monkeypatch.setattr(data, "_STRETCH", 360)
    trainer = cl.Trainer(small())
    before = bits(trainer)
    with pytest.raises(error, match=message):
        trainer.fit(change(*stripes()), progress=False)
    with pytest.raises(error, match=message.replace("fit:", "fit: validation:")):
        trainer.fit(stripes(), validation=change(*stripes()), progress=False)
    with pytest.raises(error, match=message.replace("fit:", "evaluate:")):
        trainer.evaluate(change(*stripes()))
    assert bits(trainer) == before
    trainer.fit(stripes(), epochs=1, progress=False)
    assert trainer.epoch == 1


def test_bad_arguments():
    model = small()
    for make, error, message in [
        (lambda: cl.Trainer("model"), ArrayTypeError, "model is a convlayers.Model"),
        (lambda: cl.Trainer(model, loss="hinge"), ConfigError, "loss is one of"),
        (lambda: cl.Trainer(model, optimizer="adam"), ArrayTypeError, "optimizer is SGD, Adam"),
        (lambda: cl.Trainer(model, optimizer=cl.Adam), ArrayTypeError, r"call it: Adam\(\.\.\.\)"),
        (lambda: cl.Trainer(model, metrics="accuracy"), ConfigError, "metrics is a list"),
        (lambda: cl.Trainer(model, callbacks=[print]), ArrayTypeError, "callbacks is a list of"),
        (lambda: cl.Trainer(model, seed=-1), ConfigError, "seed must be at least 0"),
        (lambda: cl.Trainer(model).fit(stripes(), epochs=0), ConfigError, "epochs must be at least 1"),
        (lambda: cl.Trainer(model).fit(stripes(), batch_size=1.5), ArrayTypeError, "batch_size is an int"),
        (lambda: cl.Trainer(model).fit(stripes(), progress="bar"), ConfigError, "progress is None, True or False"),
        (lambda: cl.Trainer(model).predict(stripes()[0], batch_size=0), ConfigError, "batch_size must be at least 1"),
    ]:
        with pytest.raises(error, match=message):
            make()


# A loss that is not finite


def test_loss_that_is_not_finite_names_epoch_batch_and_layer():
    model = cl.Sequential([Counter(), cl.Flatten(), ("hidden", cl.Dense(4)), ("head", cl.Dense(3))], input_shape=(1, 6, 6))

    def overflow(trainer):
        trainer.model.parameters()["hidden.weight"][...] = 1e20
        trainer.model.parameters()["head.weight"][...] = 1e20
        states.append(bits(trainer))

    states = []
    trainer = cl.Trainer(model, callbacks=[At(6, overflow)])
    with pytest.raises(NotFiniteError, match=r'the loss is nan in epoch 2, batch 3 of 4: Dense "head" is the first layer'):
        trainer.fit(stripes(), epochs=3, batch_size=16, progress=False)
    assert [bits(trainer)] == states
    assert trainer.model.state_dict()["0.passes"] == [6]
    assert (trainer.epoch, trainer.step) == (1, 6)


class Fuse(Counter):
    """Blows in its sixth training pass, and in no other."""

    def forward(self, x, *, training):
        x, _ = super().forward(x, training=training)
        return (x * np.float32(np.inf) if training and self.buffers["passes"] == 6 else x), None


def test_the_batch_is_run_again_just_as_it_was():
    model = cl.Sequential([cl.Flatten(), ("fuse", Fuse()), cl.Dense(3)], input_shape=(1, 6, 6))
    trainer = cl.Trainer(model)
    with pytest.raises(NotFiniteError, match=r'epoch 2, batch 2 of 4: Fuse "fuse" is the first layer whose output holds inf'):
        trainer.fit(stripes(), epochs=2, batch_size=16, progress=False)


def test_weights_that_are_not_finite_are_named():
    def spoil(trainer):
        trainer.model.parameters()["0.bias"][1] = np.nan

    trainer = cl.Trainer(small(), callbacks=[At(2, spoil)])
    with pytest.raises(NotFiniteError, match=r'epoch 1, batch 3 of 4: Conv2d "0" holds NaN in its bias since the step before'):
        trainer.fit(stripes(), epochs=1, batch_size=16, progress=False)


def test_a_loss_that_is_itself_not_finite():
    trainer = cl.Trainer(small(), loss=lambda outputs, targets: (float("inf"), outputs))
    with pytest.raises(NotFiniteError, match=r"the loss is inf in epoch 1, batch 1 of 1: .* began in the loss itself"):
        trainer.fit(stripes(), progress=False)
