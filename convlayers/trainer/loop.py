"""The training loop: epochs, batches, one step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import NotFiniteError
from ..randomness import generator
from .data import Samples
from .diagnosis import first_not_finite
from .metrics import total
from .progress import Silence

if TYPE_CHECKING:
    from .trainer import Trainer


def score(
    trainer: Trainer, samples: Samples, batch_size: int, stopped: Callable[[], bool] = lambda: False
) -> dict[str, float] | None:
    """The loss and the metrics over all samples, in inference; None when `stopped` says so between two batches."""
    sums = dict.fromkeys(["loss", *trainer.metrics], 0.0)
    for start in range(0, len(samples), batch_size):
        if stopped():
            return None
        index = slice(start, start + batch_size)
        outputs, targets = trainer.model(samples.inputs(index)), samples.batch_targets(index)
        count = min(batch_size, len(samples) - start)
        sums["loss"] += float(trainer.loss(outputs, targets)[0]) * count
        for name, metric in trainer.metrics.items():
            sums[name] += total(metric(outputs, targets), count)
    return {name: value / len(samples) for name, value in sums.items()}


class Run:
    """One call of `fit`: what a step needs, fetched once."""

    def __init__(self, trainer: Trainer, train: Samples, held_out: Samples | None, report: Silence) -> None:
        self._trainer, self._train, self._held_out, self._report = trainer, train, held_out, report
        self._position = trainer.position
        self._batches = -(-len(train) // self._position.batch_size)
        self._frozen = trainer.model.frozen
        self._gradients = list(trainer.model.gradients().values())
        self._buffers = list(trainer.model.buffers().values())
        self._kept = [buffer.copy() for buffer in self._buffers]

    def until(self, end: int, interrupted: Callable[[], bool]) -> bool:
        """Train until `end` epochs are done; False when the run stops before, between two batches."""
        trainer, position = self._trainer, self._position
        while position.epoch < end:
            if interrupted() or not self._epoch(end, interrupted):
                return False
            logs = self._results(interrupted)
            if logs is None:
                return False
            for name, value in logs.items():
                trainer.history.setdefault(name, []).append(value)
            position.close_epoch(end)
            self._report.result(logs)
            for callback in trainer.callbacks:
                callback.on_epoch_end(trainer, dict(logs))
            if trainer.stop:
                break
        position.run_start = None
        return True

    def _epoch(self, end: int, interrupted: Callable[[], bool]) -> bool:
        """The rest of the running epoch; False when it is broken off."""
        trainer, position, samples, size = self._trainer, self._position, self._train, self._position.batch_size
        order = generator(trainer.seed, "shuffle", position.epoch).permutation(len(samples))
        if not position.batch:
            position.sums = dict.fromkeys(["loss", *trainer.metrics], 0.0)
        self._report.epoch(position.epoch + 1, end, self._batches, position.batch)
        while position.batch < self._batches:
            index = order[position.batch * size : (position.batch + 1) * size]
            loss = self._step(samples.inputs(index), samples.batch_targets(index), len(index))
            self._report.batch()
            for callback in trainer.callbacks:
                callback.on_batch_end(trainer, loss)
            if trainer.stop or interrupted():
                return False
        return True

    def _step(self, x: Any, targets: Any, samples: int) -> float:
        trainer, position = self._trainer, self._position
        if trainer.model.frozen != self._frozen:
            trainer.bind()
            self._frozen = trainer.model.frozen
        for kept, buffer in zip(self._kept, self._buffers, strict=True):
            np.copyto(kept, buffer)
        outputs, tape = trainer.model.forward(x, True, step=position.step, seed=trainer.seed)
        value, gradient = trainer.loss(outputs, targets)
        loss = float(value)
        if not math.isfinite(loss):
            self._refuse(x, loss)
        totals = {name: total(metric(outputs, targets), samples) for name, metric in trainer.metrics.items()}
        for array in self._gradients:
            array.fill(0)
        trainer.model.backward(gradient, tape, input_gradient=False)
        trainer.optimizer.step()
        position.sums["loss"] += loss * samples
        for name, value in totals.items():
            position.sums[name] += value
        position.batch += 1
        position.step += 1
        return loss

    def _refuse(self, x: Any, loss: float) -> None:
        """Raise `NotFiniteError`, with parameters and buffers as they were before the batch."""
        trainer, position = self._trainer, self._position
        self._restore()
        where = first_not_finite(trainer.model, x, position.step, trainer.seed)
        self._restore()
        raise NotFiniteError(
            f"the loss is {loss} in epoch {position.epoch + 1}, batch {position.batch + 1} of {self._batches}: {where}"
        )

    def _restore(self) -> None:
        for kept, buffer in zip(self._kept, self._buffers, strict=True):
            np.copyto(buffer, kept)

    def _results(self, interrupted: Callable[[], bool]) -> dict[str, float] | None:
        """The epoch's means, and those of the validation data; None when that is broken off."""
        position = self._position
        logs = {name: value / len(self._train) for name, value in position.sums.items()}
        if self._held_out is not None:
            held_out = score(self._trainer, self._held_out, position.batch_size, interrupted)
            if held_out is None:
                return None
            logs |= {f"val_{name}": value for name, value in held_out.items()}
        return logs
