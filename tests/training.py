"""What the training tests share: a small network, data that it learns, and things that happen at a given step."""

import os
import signal

import numpy as np

import convlayers as cl
from convlayers.layer import Layer
from convlayers.trainer import Callback


def small(classes=3, p=0.3, seed=0):
    """A network with every kind of step, for images (1, 6, 6)."""
    layers = [cl.Conv2d(4, 3, padding=1), cl.ReLU(), cl.MaxPool2d(2), cl.Flatten(), cl.Dropout(p), cl.Dense(classes)]
    return cl.Sequential(layers, input_shape=(1, 6, 6), seed=seed)


def stripes(count=50):
    """Images of one bright row: the top, the middle or the bottom, under noise; the label says which."""
    rng = np.random.default_rng(0)
    y = np.arange(count) % 3
    x = rng.normal(0, 0.3, (count, 1, 6, 6)).astype(np.float32)
    x[np.arange(count), 0, 2 * y] += 1
    return x, y


def bits(trainer):
    return {name: array.tobytes() for name, array in trainer.model.state_dict().items()}


def fitted(data, **options):
    trainer = cl.Trainer(small(), seed=options.pop("seed", 0))
    trainer.fit(data, **{"epochs": 2, "batch_size": 16, "progress": False, **options})
    return trainer


class Counter(Layer):
    """Passes its input on and counts its training passes in a buffer, as BatchNorm keeps its averages."""

    def build(self, input_shape, rng):
        self.buffers["passes"] = np.zeros(1, np.float32)
        return input_shape

    def forward(self, x, *, training):
        self.buffers["passes"] += training
        return x, None

    def backward(self, dy, cache):
        return dy


class At(Callback):
    """Do something after a given step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_batch_end(self, trainer, loss):
        if trainer.step == self.step:
            self.action(trainer)


def stop(trainer):
    trainer.stop = True


def interrupt(trainer):
    os.kill(os.getpid(), signal.SIGINT)


FIT = {"epochs": 3, "batch_size": 16, "validation": stripes(20), "progress": False}  # 4 batches an epoch


def straight(optimizer=None):
    trainer = cl.Trainer(small(), optimizer=optimizer, seed=3)
    return trainer.fit(stripes(), **FIT), bits(trainer)
