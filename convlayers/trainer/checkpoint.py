"""A trainer as one safetensors file: the model's file, with the optimizer's arrays and the run's position beside the model's.

The header is the model's configuration with one more key, `"trainer"`. The optimizer's arrays have names that start with
`optimizer:`, those of a callback `callback:`, which no layer's name can, so `convlayers.load` finds the model in a checkpoint
too.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import FileFormatError, LayerNotFoundError, RegistryError, located
from ..model import Model
from ..model.store import FOREIGN, model_from, pack, unpack
from .losses import LOSSES, BuiltinLoss, Loss
from .metrics import METRICS, name_of
from .position import Position

if TYPE_CHECKING:
    from .trainer import Trainer

VERSION = 2
_OPTIMIZER, _CALLBACK = f"optimizer{FOREIGN}", f"callback{FOREIGN}"


class Contents(NamedTuple):
    """What a checkpoint holds. A loss is one of ours, or the name of another; a metric is its name, and whether it is one of
    ours; `state` is the optimizer's, `callbacks` are the callbacks that have one, each its class's name and its state."""

    model: Model
    loss: str | Loss
    metrics: list[tuple[str, bool]]
    optimizer: str
    settings: dict[str, Any]
    state: dict[str, np.ndarray]
    seed: int
    history: dict[str, list[float]]
    position: Position
    callbacks: list[tuple[str, dict[str, Any]]]


def _loss(loss: Any) -> tuple[str, dict[str, Any] | None]:
    """Its name, and its options if it is one of ours."""
    name = name_of(loss)
    ours = isinstance(loss, BuiltinLoss) and type(loss) is type(LOSSES.get(name))
    return name, loss.config() if ours else None


def _metric(metric: Any) -> tuple[str, bool]:
    name = name_of(metric)
    return name, METRICS.get(name) is metric


def to_bytes(trainer: Trainer) -> bytes:
    """The checkpoint of a trainer as it stands."""
    optimizer = trainer.optimizer
    section: dict[str, Any] = {
        "version": VERSION,
        "loss": _loss(trainer.loss),
        "metrics": [_metric(metric) for metric in trainer.metrics.values()],
        "optimizer": type(optimizer).__name__,
        "settings": optimizer.config(),
        "seed": trainer.seed,
        "history": trainer.history,
        "position": trainer.position.to_json(),
        "callbacks": [],
    }
    arrays = {**trainer.model.state_dict(), **{_OPTIMIZER + key: array for key, array in optimizer.state_dict().items()}}
    for callback in trainer.callbacks:
        if state := callback.state_dict():
            place = f"{_CALLBACK}{len(section['callbacks'])}{FOREIGN}"
            arrays |= {place + key: value for key, value in state.items() if isinstance(value, np.ndarray)}
            values = {key: value for key, value in state.items() if not isinstance(value, np.ndarray)}
            section["callbacks"].append([type(callback).__name__, values])
    return pack(arrays, {**trainer.model.to_config(), "trainer": section})


def _contents(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> Contents:
    section = header["trainer"]
    if section["version"] != VERSION:
        raise FileFormatError(f"it has version {section['version']!r}; this convlayers reads {VERSION}")
    return Contents(
        model_from(arrays, header),
        _loss_from(*section["loss"]),
        [_named(metric) for metric in section["metrics"]],
        str(section["optimizer"]),
        dict(section["settings"]),
        _beginning(_OPTIMIZER, arrays),
        int(section["seed"]),
        {str(name): [float(value) for value in values] for name, values in section["history"].items()},
        Position.from_json(section["position"]),
        [
            (str(name), {**values, **_beginning(f"{_CALLBACK}{number}{FOREIGN}", arrays)})
            for number, (name, values) in enumerate(section["callbacks"])
        ],
    )


def _beginning(place: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key.removeprefix(place): array for key, array in arrays.items() if key.startswith(place)}


def _loss_from(name: str, options: dict[str, Any] | None) -> str | Loss:
    return str(name) if options is None else type(LOSSES[name])(**options)


def _named(pair: list[Any]) -> tuple[str, bool]:
    name, built_in = pair
    return str(name), bool(built_in)


def read(path: str | PathLike[str]) -> Contents:
    """The contents of a checkpoint. Raises `FileFormatError` for any other file and for a damaged one.

    Errors about layers that are not installed pass as they are.
    """
    arrays, header = unpack(path)
    if not isinstance(header, dict) or not isinstance(header.get("trainer"), dict):
        raise FileFormatError(f"{path} is not a trainer's checkpoint; a saved model is read with convlayers.load")
    try:
        return _contents(arrays, header)
    except (FileFormatError, LayerNotFoundError, RegistryError) as error:
        raise located(error, str(path)) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{path} is not a trainer's checkpoint ({type(error).__name__}: {error})") from error
