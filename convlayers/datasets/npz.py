"""NumPy's .npz: a zip of .npy files. Nothing is unpickled, and no size is believed before it is checked."""

import zipfile
import zlib
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np

from ..errors import ConvlayersError, DataError, FileAccessError, FileFormatError
from .dataset import Dataset, assemble
from .sizes import check_unpacked

KEYS = ("x_train", "y_train", "x_test", "y_test")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# What zipfile and NumPy's header reader raise for bytes that are not theirs.
_BAD_BYTES = (zipfile.BadZipFile, zlib.error, EOFError, SyntaxError, TokenError)
_BAD_VALUES = (ValueError, TypeError, OverflowError, RuntimeError)


def load_npz(path: Path) -> Dataset:
    """The arrays `x_train`, `y_train`, `x_test`, `y_test` of a file.

    Samples are `(N, C, H, W)`, or `(N, H, W)` for one channel; `uint8` is scaled by 1/255, floats are taken as they are.
    Rows `(N, features)` serve models that begin with a dense layer. Labels are integers `(N,)`.
    """
    arrays = _read(path)
    x_train, y_train, x_test, y_test = (arrays[key] for key in KEYS)
    scale = _scale(x_train, f"{path}: x_train")
    if _scale(x_test, f"{path}: x_test") != scale:
        raise DataError(f"{path}: x_train is {x_train.dtype} and x_test {x_test.dtype}; only uint8 is scaled, so both must be")
    train, test = (x[:, None] if x.ndim == 3 else x for x in (x_train, x_test))
    return assemble(str(path), (train, y_train), (test, y_test), scale=scale)


def _scale(x: np.ndarray, name: str) -> float:
    if x.dtype == np.uint8:
        return 1 / 255
    if x.dtype.kind != "f":
        raise DataError(f"{name} must be uint8 (pixels, scaled by 1/255) or floats (taken as they are); got {x.dtype}")
    return 1.0


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = path.stat().st_size
            present = set(archive.namelist())
            missing = [key for key in KEYS if f"{key}.npy" not in present]
            if missing:
                raise FileFormatError(f"{path} lacks {', '.join(missing)}; it needs the arrays {', '.join(KEYS)}")
            return {key: _member(archive, archive.getinfo(f"{key}.npy"), size, f"{path}: {key}") for key in KEYS}
    except ConvlayersError:
        raise
    except OSError as error:
        raise FileAccessError(f"cannot read {path}: {error.strerror or error}") from error
    except (*_BAD_BYTES, *_BAD_VALUES) as error:
        raise FileFormatError(f"{path} is not a whole .npz file: {error}") from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int, place: str) -> np.ndarray:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FileFormatError(f"{place} is compressed by a method that NumPy does not write")
    if info.compress_type == zipfile.ZIP_DEFLATED:
        check_unpacked(info.file_size, min(info.compress_size, size), place)
    elif info.file_size > size:
        raise FileFormatError(f"{place} claims {info.file_size:,} bytes in a file of {size:,}")
    with archive.open(info) as file:
        _check_header(file, info.file_size, place)
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_header(file: IO[bytes], size: int, place: str) -> None:
    """The array that the header describes must be of numbers and fill the rest of the member exactly."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise FileFormatError(f"{place} has version {version[0]}.{version[1]} of the .npy format; 1.0 and 2.0 are read")
    shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise FileFormatError(f"{place} holds Python objects, which are never loaded; save plain numbers")
    if dtype.kind not in "fiub":
        raise FileFormatError(f"{place} must hold real numbers; got dtype {dtype}")
    claimed, held = prod(shape) * dtype.itemsize, size - file.tell()
    if claimed != held:
        raise FileFormatError(f"{place}: the header claims shape {shape}, {claimed:,} bytes; the file holds {held:,}")
