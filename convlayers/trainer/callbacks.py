"""Callbacks: what happens beside training, at the end of a batch, an epoch, a run."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError
from ..files import check_target
from ..shapes import positive

if TYPE_CHECKING:
    from .trainer import Trainer


class Callback:
    """Base of all callbacks; every method does nothing. They are called in the order of the trainer's list.

    A callback reads `trainer.model`, `trainer.optimizer`, `trainer.history`, `trainer.epoch` (epochs completed) and
    `trainer.step` (optimizer steps taken). Setting `trainer.stop = True` stops training after the current batch. Set in
    `on_epoch_end` it ends the run; set in `on_batch_end` it interrupts the run, which a next `fit` completes.
    """

    def on_fit_begin(self, trainer: Trainer) -> None:
        """The data passed the door; an exception from here stops `fit` before it trains."""

    def on_batch_end(self, trainer: Trainer, loss: float) -> None:
        """A step was taken; `loss` is that batch's."""

    def on_epoch_end(self, trainer: Trainer, logs: dict[str, float]) -> None:
        """An epoch is done and in the history; `logs` holds its values."""

    def on_interrupt(self, trainer: Trainer) -> None:
        """The run stops before its end, between two batches: Ctrl-C, or `trainer.stop` in the middle of an epoch."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """The run is complete, or `trainer.stop` ended it after an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of this callback: JSON values and arrays by name."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave; called by `Trainer.resume`."""


class Checkpoint(Callback):
    """Save the trainer to `path` after every `every` epochs, at the end of a run, and when it is interrupted.

    `Trainer.resume(path)` goes on from there to the same bits. The file is replaced whole: at any moment there is the
    former checkpoint or the new one. A place that cannot be written is a `FileAccessError` before training starts, a layer
    that nobody registered a `RegistryError`. Put it last in the list, so that it saves what the other callbacks did.
    """

    def __init__(self, path: str | PathLike[str], every: int = 1) -> None:
        self.path = path
        self.every = positive(every, "every")

    def on_fit_begin(self, trainer: Trainer) -> None:
        check_target(self.path)
        # A layer that nobody registered cannot be saved either; better known now than after an epoch.
        trainer.model.to_config()

    def on_epoch_end(self, trainer: Trainer, logs: dict[str, float]) -> None:
        if trainer.epoch % self.every == 0:
            trainer.save(self.path)

    def on_interrupt(self, trainer: Trainer) -> None:
        trainer.save(self.path)

    def on_fit_end(self, trainer: Trainer) -> None:
        # Also where an epoch's checkpoint was just written: the run is over now, and a callback may have changed the weights.
        trainer.save(self.path)


class EarlyStopping(Callback):
    """End the run when `metric` has not improved for `patience` epochs, and put the best epoch's weights back.

    A metric whose name ends in `loss` is better when smaller, any other when larger. Each run counts anew; one that was
    interrupted goes on counting, from a checkpoint too, which keeps the best epoch's weights beside the last one's.
    """

    def __init__(self, metric: str = "val_loss", patience: int = 5) -> None:
        self.metric = metric
        self.patience = positive(patience, "patience")
        self._reset()

    def _reset(self) -> None:
        self._best, self._waited = -np.inf, 0
        self._weights: dict[str, np.ndarray] = {}

    def on_fit_begin(self, trainer: Trainer) -> None:
        if trainer.position.begins_run:
            self._reset()

    def on_epoch_end(self, trainer: Trainer, logs: dict[str, float]) -> None:
        if self.metric not in logs:
            raise ConfigError(f'EarlyStopping: an epoch has {", ".join(logs)}, not "{self.metric}"')
        value = -logs[self.metric] if self.metric.endswith("loss") else logs[self.metric]
        if value > self._best:
            self._best, self._waited, self._weights = value, 0, trainer.model.state_dict()
        else:
            self._waited += 1
        trainer.stop = trainer.stop or self._waited >= self.patience

    def on_fit_end(self, trainer: Trainer) -> None:
        if self._weights:
            trainer.model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited, **self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._waited = float(state["best"]), int(state["waited"])
        self._weights = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}


class LearningRateSchedule(Callback):
    """Set the learning rate of each epoch: `lr = function(epoch)`, epochs counted from 0 over all fits.

    The function is asked for the epochs that are trained and for no other, so it may reach 0 where the run ends:
    `lambda epoch: lr * (1 + cos(pi * epoch / epochs)) / 2` (Loshchilov and Hutter 2017). Raises `ConfigError` for a rate that
    is not greater than 0 and finite.
    """

    def __init__(self, function: Callable[[int], float]) -> None:
        self.function = function

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._set(trainer)

    def on_epoch_end(self, trainer: Trainer, logs: dict[str, float]) -> None:
        if trainer.position.run_start is not None:
            self._set(trainer)

    def _set(self, trainer: Trainer) -> None:
        lr = self.function(trainer.epoch)
        if not 0 < lr < np.inf:
            raise ConfigError(f"LearningRateSchedule: lr must be greater than 0 and finite; epoch {trainer.epoch} got {lr!r}")
        trainer.optimizer.lr = float(lr)
