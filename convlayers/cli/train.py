"""`convlayers train`: from a data set to a trained model, and to an ONNX file."""

import argparse
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import datasets
from ..errors import ConfigError, ExportError, ShapeError
from ..files import check_target
from ..kernels import get_num_threads, using
from ..layer import has_to_onnx
from ..model import Model
from .architectures import create, default_name
from .scoring import open_predictor, raw_pixels, score

if TYPE_CHECKING:
    from ..trainer import Trainer


def train(args: argparse.Namespace) -> None:
    """Train, say how the model does, and write the files that were asked for; their places are checked first."""
    _check_targets(args.checkpoint, args.save, args.export)
    say = (lambda *_: None) if args.quiet else partial(print, flush=True)
    with using(threads=args.threads):
        data = datasets.load(args.data)
        say(_described(data))
        name = args.model or default_name(data)
        model = create(name, data, args.seed)
        model.metadata = {"labels": data.labels, "preprocessing": data.preprocessing}
        raw_pixels(model, args.raw_pixels)  # what cannot be is said before the training
        if args.export:
            _check_exportable(model)
        trainer = _trainer(args, model, len(data.x_train), say)
        parameters = sum(array.size for array in trainer.model.parameters().values())
        chosen = "" if args.model else ", chosen by the images' size"
        say(f"{name}{chosen}: {parameters:,} parameters; {_settings(args)}, {get_num_threads()} thread(s)")
        _fit(trainer, data, args)
        print(f"test {(result := score(trainer, data))}, loss {result.loss:.4f}", flush=True)
        _write(trainer.model, data, args)


def _described(data: datasets.Dataset) -> str:
    shape = "x".join(map(str, data.input_shape))
    counts = f"{len(data.x_train):,} training and {len(data.x_test):,} test images"
    return f"{data.name}: {counts} of {shape}, {data.classes} classes"


def _settings(args: argparse.Namespace) -> str:
    return f"{args.optimizer} with lr {_optimizer(args).lr:g}, batches of {args.batch_size}, seed {args.seed}"


def _check_targets(*paths: str | None) -> None:
    targets = [check_target(path) for path in paths if path]
    if len(set(targets)) < len(targets):
        raise ConfigError("--checkpoint, --save and --export must be different files")


def _check_exportable(model: Model) -> None:
    for name, layer in model.layers():
        if not has_to_onnx(layer):
            raise ExportError(f'{type(layer).__name__} "{name}" cannot be exported: it has no to_onnx; train without --export')


def _optimizer(args: argparse.Namespace) -> Any:
    from ..trainer import SGD, Adam, AdamW, RMSprop

    rules: dict[str, tuple[Any, float]] = {
        "adam": (Adam, 2e-3),
        "adamw": (AdamW, 2e-3),
        "rmsprop": (RMSprop, 1e-3),
        "sgd": (partial(SGD, momentum=0.9), 0.05),
    }
    rule, lr = rules[args.optimizer]
    return rule(lr=args.lr or lr)


def _trainer(args: argparse.Namespace, model: Model, samples: int, say: Any) -> "Trainer":
    """A new trainer, or the one in the checkpoint if that belongs to the same run."""
    from ..trainer import Checkpoint, Trainer

    callbacks = [Checkpoint(args.checkpoint)] if args.checkpoint else []
    if not args.checkpoint or not os.path.exists(args.checkpoint):
        return Trainer(model, "cross_entropy", _optimizer(args), ["accuracy"], callbacks, args.seed)
    trainer = Trainer.resume(args.checkpoint, callbacks=callbacks)
    _check_same_run(trainer, args, model, samples)
    trainer.model.metadata = model.metadata
    say(f"resuming from {args.checkpoint}, {trainer.epoch} of {args.epochs} epochs done")
    return trainer


def _layers(model: Model) -> list[Any]:
    # As JSON values: a checkpoint's configuration has lists where a new model may have tuples.
    import json

    kept = ("name", "layer", "config", "shares", "inputs")
    return json.loads(json.dumps([[entry.get(key) for key in kept] for entry in model.to_config()["layers"]]))


def _check_same_run(trainer: "Trainer", args: argparse.Namespace, model: Model, samples: int) -> None:
    """Refuse a checkpoint of another run: going on under other settings would be neither of the two."""
    rule = f"the checkpoint {args.checkpoint} is of another run: "
    saved, new = trainer.model, model
    if (saved.input_shape, _layers(saved)) != (new.input_shape, _layers(new)):
        raise ShapeError(f"{rule}it holds another model; give another --checkpoint, or remove it to start anew")
    optimizer, position = _optimizer(args), trainer.position
    pairs = {
        "training images": (position.samples, samples),
        "seed": (trainer.seed, args.seed),
        "batch size": (position.batch_size, args.batch_size),
        "optimizer": (type(trainer.optimizer).__name__, type(optimizer).__name__),
        "lr": (trainer.optimizer.lr, optimizer.lr),
    }
    for what, (was, now) in pairs.items():
        if was != now:
            raise ConfigError(f"{rule}{what} {was}, now {now}; give another --checkpoint, or remove it to start anew")


def _fit(trainer: "Trainer", data: datasets.Dataset, args: argparse.Namespace) -> None:
    # An unfinished fit counts its epochs from where it began, a new one from here.
    begun = trainer.position.run_start
    left = args.epochs - (trainer.epoch if begun is None else begun)
    if left < 1:
        return
    progress = False if args.quiet else None
    try:
        trainer.fit((data.x_train, data.y_train), left, args.batch_size, (data.x_test, data.y_test), progress)
    except KeyboardInterrupt:
        kept = args.checkpoint and os.path.exists(args.checkpoint)
        hint = (
            f"; the same command goes on from {args.checkpoint}" if kept else "; with --checkpoint FILE nothing would be lost"
        )
        raise KeyboardInterrupt(f"interrupted after {trainer.step:,} steps{hint}") from None


def _write(model: Model, data: datasets.Dataset, args: argparse.Namespace) -> None:
    if args.save:
        model.save(args.save)
        print(f"saved {os.path.realpath(args.save)}")
    if args.export:
        from ..onnx import export_onnx

        print(export_onnx(model, args.export, preprocessing=raw_pixels(model, args.raw_pixels)))
        print(f"exported {os.path.realpath(args.export)}: {score(open_predictor(args.export, data), data)} in onnxruntime")
