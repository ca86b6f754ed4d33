"""A folder of images: one subfolder a class, its name the label."""

from io import BytesIO
from pathlib import Path

import numpy as np

from ..errors import DataError, FileAccessError, FileFormatError, MissingDependencyError
from ..files import read_whole
from .dataset import Dataset, assemble, split

_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_CHANNELS = {"L": 1, "RGB": 3}
_LIMIT = 1 << 34

Found = list[tuple[Path, int]]


def load_folder(folder: Path) -> Dataset:
    """Grey `(N, 1, H, W)` or RGB `(N, 3, H, W)` images of one size, scaled by 1/255.

    `folder/train/CLASS/` and `folder/test/CLASS/` are used where both exist; else `folder/CLASS/` is split 80 to 20, always
    the same way. Classes are numbered in the order of their names. Files that do not end like an image are passed over.
    """
    halves = folder / "train", folder / "test"
    if all(half.is_dir() for half in halves):
        labels = _classes(halves[0])
        extra = sorted(set(_classes(halves[1])) - set(labels))
        if extra:
            raise DataError(f"{halves[1]} has the class {extra[0]!r}, which {halves[0]} has not")
        train, test = (_images(half, labels) for half in halves)
    else:
        labels = _classes(folder)
        found = _images(folder, labels)
        train, test = ([found[i] for i in part] for part in split(len(found), str(folder)))
    everything = _pixels(train + test)
    numbers = np.array([number for _, number in train + test], np.int64)
    n = len(train)
    return assemble(str(folder), (everything[:n], numbers[:n]), (everything[n:], numbers[n:]), scale=1 / 255, labels=labels)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise FileAccessError(f"cannot read {folder}: {error.strerror or error}") from error


def _classes(folder: Path) -> list[str]:
    names = [entry.name for entry in _listed(folder) if entry.is_dir()]
    if not names:
        raise DataError(f"{folder} holds no classes: it needs a subfolder of images for each")
    return names


def _images(folder: Path, labels: list[str]) -> Found:
    found: Found = []
    for number, label in enumerate(labels):
        if (folder / label).is_dir():
            files = [f for f in _listed(folder / label) if f.suffix.lower() in _SUFFIXES and f.is_file()]
            if not files:
                raise DataError(f"{folder / label} holds no images; add some or remove the folder")
            found += [(file, number) for file in files]
    return found


def _pixels(found: Found) -> np.ndarray:
    """All images, `(N, C, H, W)` in uint8; each must be like the first in size and colour."""
    first = _decoded(found[0][0])
    if len(found) * first.size * 4 > _LIMIT:
        raise DataError(f"{len(found):,} images of {_kind(first)} take over {_LIMIT >> 30} GiB of memory; use smaller images")
    pixels = np.empty((len(found), *first.shape), np.uint8)
    for place, (path, _) in zip(pixels, found, strict=True):
        image = _decoded(path)
        if image.shape != first.shape:
            raise DataError(f"{path} is {_kind(image)}, {found[0][0]} is {_kind(first)}; all images must be alike")
        place[...] = image
    return pixels


def _kind(image: np.ndarray) -> str:
    channels, height, width = image.shape
    return f"{'grey' if channels == 1 else 'RGB'} of {height}x{width}"


def _decoded(path: Path) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(
            'a folder of images is read with Pillow, which is not installed: pip install "convlayers[images]"'
        ) from error
    data = read_whole(path)
    try:
        with Image.open(BytesIO(data)) as image:
            mode, array = image.mode, np.asarray(image)
    except Exception as error:  # each of Pillow's readers raises errors of its own for a corrupt file
        raise FileFormatError(f"{path} is not a whole image: {error}") from error
    if mode not in _CHANNELS:
        raise DataError(f"{path} has mode {mode}; save it as grey (L) or RGB")
    return array.reshape(*array.shape[:2], _CHANNELS[mode]).transpose(2, 0, 1)
