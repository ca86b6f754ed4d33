"""What every reader of a data set hands over, and the checks that all of them share."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from ..randomness import generator

# A class number beyond this is a mistake, such as a file of ids; each class costs a column of weights.
_MAX_CLASSES = 65_536


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and class numbers, split for training and testing.

    `x_train` and `x_test` are `float32`, `(N, C, H, W)` for images, C-contiguous and finite; `y_train` and `y_test` are
    `int64`, `(N,)`, each an index into `labels`. `preprocessing` says in JSON values how raw pixels became `x`, so that it
    can travel with a model: `{"layout": "NCHW", "scale": 1/255}` means `x = pixel * scale`.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    labels: list[str]
    preprocessing: dict[str, Any]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample, `(C, H, W)` for images."""
        return self.x_train.shape[1:]

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.labels)


def assemble(
    name: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    scale: float,
    labels: list[str] | None = None,
) -> Dataset:
    """A checked `Dataset` from raw samples and labels; `x = raw * scale`, computed as a division where scale is 1/n.

    Raw samples are `(N, ...)` integers or floats. Without `labels` the classes are numbered up to the largest that occurs.
    Raises `DataError` that names the array and the index.
    """
    arrays = []
    for part, (x, y) in (("train", train), ("test", test)):
        numbers = _class_numbers(y, f"{name}: y_{part}")
        arrays += [_samples(x, f"{name}: x_{part}", scale), numbers]
        if len(x) != len(y):
            raise DataError(f"{name}: x_{part} has {len(x)} samples and y_{part} {len(y)} labels; each sample needs one")
    x_train, y_train, x_test, y_test = arrays
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(f"{name}: samples are {x_train.shape[1:]} in x_train but {x_test.shape[1:]} in x_test")
    if labels is None:
        labels = [str(number) for number in range(max(y_train.max(), y_test.max()) + 1)]
    return Dataset(name, x_train, y_train, x_test, y_test, labels, {"layout": "NCHW", "scale": scale})


def split(count: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices for training and testing, 80 to 20: a permutation that depends on `count` alone."""
    if count < 2:
        raise DataError(f"{name}: {count} sample(s) cannot be split for training and testing; at least 2 are needed")
    order = generator(0, "split", count).permutation(count)
    held_out = max(count // 5, 1)
    return order[held_out:], order[:held_out]


def _samples(raw: np.ndarray, name: str, scale: float) -> np.ndarray:
    if raw.ndim < 2:
        raise DataError(f"{name} must be (N, ...), one row or image a sample; got shape {raw.shape}")
    if raw.size == 0:
        raise DataError(f"{name} holds no samples: its shape is {raw.shape}")
    with np.errstate(over="ignore"):
        # Dividing rounds once; multiplying by a rounded 1/255 would round twice.
        x = np.ascontiguousarray(raw, np.float32) if scale == 1 else np.divide(raw, np.float32(1 / scale), dtype=np.float32)
    finite = np.isfinite(x)
    if not finite.all():
        index = np.unravel_index(int(np.argmin(finite)), x.shape)
        place = ", ".join(str(i) for i in index)
        raise DataError(f"{name}[{place}] is {raw[index]}, not a finite float32; clean the data first")
    return np.ascontiguousarray(x)


def _class_numbers(raw: np.ndarray, name: str) -> np.ndarray:
    if raw.ndim != 1:
        raise DataError(f"{name} must be (N,), one class number a sample; got shape {raw.shape}")
    if raw.dtype.kind not in "iu":
        raise DataError(f"{name} must hold integers, the class numbers; got {raw.dtype}")
    wrong = (raw < 0) | (raw >= _MAX_CLASSES)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise DataError(f"{name}[{index}] is {raw[index]}; class numbers run from 0 and stay under {_MAX_CLASSES}")
    return np.ascontiguousarray(raw, np.int64)
