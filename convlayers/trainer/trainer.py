"""The trainer: one model, one loss, one optimizer."""

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import Any

import numpy as np

from ..errors import ArrayTypeError, ConfigError, FileFormatError
from ..files import write_whole
from ..model import Model
from ..shapes import positive
from . import checkpoint
from .callbacks import Callback
from .data import Samples, labelled
from .interrupt import Interrupt
from .loop import Run, score
from .losses import CrossEntropy, Loss, get_loss
from .metrics import Metric, get_metrics, name_of
from .optimizers import OPTIMIZERS, Adam, Optimizer
from .position import Position
from .progress import reporter

Data = tuple[Any, Any]


def _copy_of(optimizer: Optimizer | None) -> Optimizer:
    if optimizer is None:
        return Adam()
    if not isinstance(optimizer, Optimizer):
        hint = f"; call it: {optimizer.__name__}(...)" if isinstance(optimizer, type) else ""
        raise ArrayTypeError(f"optimizer is SGD, Adam, AdamW or RMSprop, or an Optimizer of your own; got {optimizer!r}{hint}")
    return type(optimizer)(**optimizer.config())


def _callbacks(callbacks: Iterable[Callback]) -> list[Callback]:
    items = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    for item in items:
        if not isinstance(item, Callback):
            raise ArrayTypeError(f"callbacks is a list of convlayers.trainer.Callback objects; got {item!r}")
    return items


class Trainer:
    """Trains `model` and judges it.

    `loss`: `"cross_entropy"` (logits and integer labels), `"binary_cross_entropy"` (logits and targets from 0 to 1), `"mse"`,
    `"l1"`, `"huber"`, an object of `convlayers.losses` with options, or a function of your own (see `losses`). `optimizer`:
    default `Adam(lr=1e-3)`; the trainer works with a copy, `trainer.optimizer`, whose state starts at zero. `metrics`:
    `"accuracy"`, `"binary_accuracy"`, `"iou"` or functions of your own (see `metrics`); by default accuracy with cross-entropy,
    else none. `callbacks`: see `Callback`. `seed` decides the order of the samples and the draws of layers such as Dropout: the
    same seed, data and instruction set give the same bits, for any number of threads.

    `model`, `loss`, `optimizer`, `metrics` (by name), `callbacks` and `seed` are attributes; `history` holds a list a
    quantity, over all epochs.
    """

    def __init__(
        self,
        model: Model,
        loss: str | Loss = "cross_entropy",
        optimizer: Optimizer | None = None,
        metrics: Sequence[str | Metric] | None = None,
        callbacks: Iterable[Callback] = (),
        seed: int = 0,
    ) -> None:
        if not isinstance(model, Model):
            raise ArrayTypeError(f"model is a convlayers.Model or Sequential; got {model!r}")
        self.model = model
        self.loss = get_loss(loss)
        self.optimizer = _copy_of(optimizer)
        default = ["accuracy"] if isinstance(self.loss, CrossEntropy) else []
        self.metrics = get_metrics(default if metrics is None else metrics)
        self.callbacks = _callbacks(callbacks)
        self.seed = positive(seed, "seed", minimum=0)
        self.history: dict[str, list[float]] = {}
        self.position = Position()
        self.stop = False
        self.bind()

    def bind(self) -> None:
        """Point the optimizer at the parameters that are trained now; `fit` does so when frozen ones were changed."""
        self.optimizer.bind(self.model.trainable_parameters(), self.model.gradients())

    @property
    def epoch(self) -> int:
        """Epochs completed, over all fits."""
        return self.position.epoch

    @property
    def step(self) -> int:
        """Optimizer steps taken, over all fits."""
        return self.position.step

    def _dtype(self) -> np.dtype:
        return next((array.dtype for array in self.model.parameters().values()), np.dtype(np.float32))

    def _labelled(self, data: Data, place: str) -> Samples:
        return labelled(self.model, data, self._dtype(), [self.loss, *self.metrics.values()], place)

    def fit(
        self,
        data: Data,
        epochs: int = 10,
        batch_size: int = 64,
        validation: Data | None = None,
        progress: bool | None = None,
    ) -> dict[str, list[float]]:
        """Train on `data = (x, y)`, x `(N, *input_shape)` of any real dtype, and return a copy of `history`.

        With several inputs x is a list of arrays, or a dict by the inputs' names; with several outputs y may be a list of
        arrays, and the loss and the metrics, functions of your own, get a list of outputs and y as it is.
        Frozen parameters (`model.freeze`) stay to the bit; a callback may freeze and unfreeze between two batches, upon which
        the optimizer's state starts anew.

        Trains `epochs` more epochs. If an earlier `fit` of this trainer, or of the one whose checkpoint it was resumed from,
        was interrupted (Ctrl-C, an error, `trainer.stop` within an epoch), this call completes that run and `epochs` is its
        total: the same call again finishes the job. In the middle of an epoch, `batch_size` and the number of samples must
        be those of before.

        Each epoch takes the samples in an order drawn anew; its last batch may be smaller. `history["loss"]` and the metrics
        are means over the samples of an epoch as it was trained, with Dropout at work and weights that change from batch to
        batch; `"val_loss"` and so on are those of `validation`, by `evaluate`, after the epoch.

        `progress`: None shows a bar if standard error is a terminal, else prints one line an epoch there; True is the bar,
        False silence.

        In the main thread, Ctrl-C lets the running batch end, then calls the callbacks' `on_interrupt` and raises
        `KeyboardInterrupt`; a second Ctrl-C raises at once. Raises `DataError`, `ShapeError` or `ArrayTypeError` for data that
        cannot be used, before training; `NotFiniteError` for a loss of NaN or infinity, with the weights as before that batch.
        """
        epochs, batch_size = positive(epochs, "epochs"), positive(batch_size, "batch_size")
        report = reporter(progress)
        train = self._labelled(data, "fit")
        held_out = None if validation is None else self._labelled(validation, "fit: validation")
        if self.model.parameters() and not self.model.trainable_parameters():
            raise ConfigError("fit: every parameter of the model is frozen; model.unfreeze() what is to be trained")
        self.bind()
        self.stop = False
        end = self.position.open_run(epochs, batch_size, len(train))
        for callback in self.callbacks:
            callback.on_fit_begin(self)
        # What is not finite is found in the loss and named there; NumPy's warnings would only come first.
        with Interrupt() as interrupt, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            try:
                complete = Run(self, train, held_out, report).until(end, lambda: interrupt.requested)
            finally:
                report.close()
            for callback in self.callbacks:
                (callback.on_fit_end if complete else callback.on_interrupt)(self)
        if interrupt.requested:
            raise KeyboardInterrupt
        return {name: list(values) for name, values in self.history.items()}

    def evaluate(self, data: Data, batch_size: int = 256) -> dict[str, float]:
        """The loss and the metrics on `data = (x, y)`, in inference: `{"loss": ..., "accuracy": ...}`, means over the samples.

        Raises what `fit` raises for data that cannot be used.
        """
        samples = self._labelled(data, "evaluate")
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            result = score(self, samples, positive(batch_size, "batch_size"))
        assert result is not None
        return result

    def predict(self, x: Any, batch_size: int = 256) -> Any:
        """The model's outputs, `(N, *output_shape)` in the parameters' dtype; a list for several outputs. x may be empty.

        Memory beside the outputs is that of one batch. Raises `DataError`, `ShapeError` or `ArrayTypeError` as `fit` does.
        """
        size, dtype = positive(batch_size, "batch_size"), self._dtype()
        samples = Samples(self.model, x, dtype)
        results = [np.empty((len(samples), *self.model.value_shapes[o]), dtype) for o in self.model.outputs]
        for start in range(0, len(samples), size):
            outputs = self.model(samples.inputs(slice(start, start + size)))
            for result, output in zip(results, outputs if len(results) > 1 else [outputs], strict=True):
                result[start : start + size] = output
        return results if len(results) > 1 else results[0]

    def save(self, path: str | PathLike[str]) -> None:
        """Write a checkpoint: one safetensors file with model, optimizer, history and position, whole or not at all.

        Losses and metrics of your own, and callbacks, are code and are not in it; what a callback counts is (see
        `Callback.state_dict`). Raises `FileAccessError`.
        """
        write_whole(path, checkpoint.to_bytes(self))

    @classmethod
    def resume(
        cls,
        path: str | PathLike[str],
        *,
        loss: str | Loss | None = None,
        metrics: Sequence[str | Metric] | None = None,
        callbacks: Iterable[Callback] = (),
        optimizer: type[Optimizer] | None = None,
    ) -> "Trainer":
        """The trainer that `save` wrote; its `fit` goes on to the same bits as that of a trainer that never stopped.

        A loss, metrics or an optimizer class of your own must be passed again, under the same names. Callbacks are passed
        anew; each gets the state that the checkpoint holds of its class, if any, in the order of the list.
        Raises `FileFormatError` for a truncated, damaged or foreign file, `FileAccessError` for one that cannot be read,
        `ConfigError` for a loss, metrics or an optimizer that are missing or others, and what `convlayers.load` raises for a
        layer that is not installed.
        """
        saved = checkpoint.read(path)
        trainer = cls(
            saved.model,
            _chosen_loss(saved.loss, loss),
            _class_of(saved.optimizer, optimizer)(**saved.settings),
            _chosen_metrics(saved.metrics, metrics),
            callbacks,
            saved.seed,
        )
        trainer.optimizer.load_state_dict(saved.state)
        trainer.history, trainer.position = saved.history, saved.position
        for callback, state in _matched(trainer.callbacks, saved.callbacks):
            try:
                callback.load_state_dict(state)
            except (KeyError, TypeError, ValueError) as error:
                what = f"what it holds of {type(callback).__name__} does not fit"
                raise FileFormatError(f"{path}: {what} ({type(error).__name__}: {error})") from error
        return trainer


def _matched(callbacks: list[Callback], saved: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[Callback, dict[str, Any]]]:
    """Each callback whose class has a state left in the checkpoint, with that state."""
    states: dict[str, list[dict[str, Any]]] = {}
    for name, state in saved:
        states.setdefault(name, []).append(state)
    for callback in callbacks:
        if left := states.get(type(callback).__name__):
            yield callback, left.pop(0)


def _chosen_loss(saved: str | Loss, given: str | Loss | None) -> Loss:
    """The loss to go on with: that of the checkpoint, or the caller's own of the same name."""
    if given is None:
        if isinstance(saved, str):
            raise ConfigError(f"the run has a loss of its own: {saved}; pass loss= to Trainer.resume")
        return saved
    chosen = get_loss(given)
    if saved != name_of(chosen) and repr(saved) != repr(chosen):
        raise ConfigError(f"the run has loss {saved}; got {given!r}")
    return chosen


def _chosen_metrics(saved: list[tuple[str, bool]], given: Sequence[str | Metric] | None) -> list[Any]:
    """The metrics to go on with: those of the checkpoint by name, or the caller's own of the same names."""
    names = [name for name, _ in saved]
    foreign = [name for name, built_in in saved if not built_in]
    if given is None and foreign:
        raise ConfigError(f"the run has metrics of its own: {', '.join(foreign)}; pass metrics= to Trainer.resume")
    chosen: list[Any] = names if given is None else list(given)
    if [metric if isinstance(metric, str) else name_of(metric) for metric in chosen] != names:
        raise ConfigError(f"the run has metrics {', '.join(names) or 'none'}; got {chosen!r}")
    return chosen


def _class_of(name: str, given: type[Optimizer] | None) -> type[Optimizer]:
    cls = OPTIMIZERS.get(name) if given is None else given
    if cls is None or cls.__name__ != name:
        raise ConfigError(f"the run has the optimizer {name}; pass optimizer={name}, the class, to Trainer.resume")
    return cls
