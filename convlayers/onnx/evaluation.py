"""What a change of a file costs and brings: accuracy, differences of outputs, time."""

from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from ..errors import DataError
from .compare import scale_of
from .runtime import OnnxModel

BATCH = 16
# Of the stop-watch: so many turns, fewer where they take long.
_TURNS, _FEWEST, _SECONDS = 9, 3, 2.0

Feeds = list[dict[str, np.ndarray]]


def samples_in(feeds: Feeds) -> int:
    """How many samples the batches hold."""
    return sum(len(next(iter(batch.values()))) for batch in feeds)


def check_finite(feeds: Feeds, name: str) -> None:
    """Raise `DataError` with the number of the first sample that has NaN or infinity."""
    for number, batch in enumerate(feeds):
        for array in batch.values():
            if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
                sample = samples_in(feeds[:number]) + int(np.argwhere(~finite)[0, 0])
                raise DataError(f"{name} must be finite; sample {sample} is not")


class Evaluation:
    """A file's outputs on evaluation data, with which those of another file are compared.

    Raises `DataError` for values or outputs that are not finite, and for labels that do not fit the outputs.
    """

    def __init__(self, model: OnnxModel, x: Any, labels: Any) -> None:
        self._model, self._feeds = model, model.feeds(x, BATCH)
        if not samples_in(self._feeds):
            raise DataError("evaluation_data holds no samples")
        check_finite(self._feeds, "evaluation_data")
        self._outputs = _outputs(model, self._feeds)
        if not all(np.isfinite(output).all() for output in self._outputs):
            raise DataError(f"{model.path} puts out NaN or infinity on the evaluation data; there is nothing to compare")
        self._labels = None if labels is None else _checked(labels, self._outputs)

    def of(self, other: OnnxModel) -> dict[str, Any]:
        """The fields of a report that say how `other` does."""
        outputs = _outputs(other, self._feeds)
        differences = [np.abs(a.astype(np.float64) - e) / scale_of(e) for a, e in zip(outputs, self._outputs, strict=True)]
        before, after = _seconds_in_turns([self._model, other], self._feeds[0])
        return {
            "evaluated": samples_in(self._feeds),
            "accuracy_before": _accuracy(self._outputs, self._labels),
            "accuracy_after": _accuracy(outputs, self._labels),
            "largest_difference": max(float(d.max(initial=0.0)) for d in differences),
            "mean_difference": max(float(d.mean()) for d in differences),
            "batch": samples_in(self._feeds[:1]),
            "seconds_before": before,
            "seconds_after": after,
        }


def _outputs(model: OnnxModel, feeds: Feeds) -> list[np.ndarray]:
    return [np.concatenate(parts) for parts in zip(*map(model.run, feeds), strict=True)]


def _seconds_in_turns(models: list[OnnxModel], batch: dict[str, np.ndarray]) -> list[float]:
    """Median seconds of each model on a batch, one model after the other, so that a busy machine is slow for all."""
    seconds: list[list[float]] = [[] for _ in models]
    begun = perf_counter()
    for turn in range(_TURNS):
        if turn >= _FEWEST and perf_counter() - begun > _SECONDS:
            break
        for model, times in zip(models, seconds, strict=True):
            start = perf_counter()
            model.run(batch)
            times.append(perf_counter() - start)
    return [median(times) for times in seconds]


def _accuracy(outputs: list[np.ndarray], labels: np.ndarray | None) -> float | None:
    return None if labels is None else float((outputs[0].argmax(axis=1) == labels).mean())


def _checked(labels: Any, outputs: list[np.ndarray]) -> np.ndarray:
    """Labels, if accuracy is defined for them: integers, one for each row of values that a file puts out."""
    array = np.asarray(labels)
    shape = outputs[0].shape
    if len(outputs) > 1 or len(shape) < 2 or shape[1] < 2:
        shapes = ", ".join(str(output.shape) for output in outputs)
        raise DataError(f"accuracy needs one output (N, classes, ...); the file puts out {shapes}")
    expected = (shape[0], *shape[2:])
    if array.dtype.kind not in "iu" or array.shape != expected:
        raise DataError(f"labels must be integers of shape {expected}; got {array.dtype} of shape {array.shape}")
    wrong = (array < 0) | (array >= shape[1])
    if wrong.any():
        index = np.unravel_index(int(wrong.argmax()), wrong.shape)
        raise DataError(f"labels are integers from 0 to {shape[1] - 1}; got {array[index]} at index {int(index[0])}")
    return array
