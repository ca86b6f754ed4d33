"""IDX, the format of MNIST's files (LeCun, Cortes and Burges), plain or gzip.

    byte 0    two zero bytes, the element type, the number of axes
    byte 4    the length of each axis, a big-endian uint32
    then      the elements, big-endian, in C order

No size that a header claims is believed before the file has shown that it holds as much.
"""

import gzip
import os
import struct
import zlib
from contextlib import nullcontext
from io import BufferedIOBase
from math import prod
from pathlib import Path

import numpy as np

from ..errors import DataError, FileAccessError, FileFormatError
from .dataset import Dataset, assemble
from .sizes import check_unpacked

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_AXES = 32
_CHUNK = 1 << 20


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """One IDX file as an array of its own type and shape; gzip is told by content, not by the file's name.

    Raises `FileAccessError`, or `FileFormatError` for a file that is not IDX or does not hold what its header claims.
    """
    try:
        with open(path, "rb") as raw:
            size = os.fstat(raw.fileno()).st_size
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) if packed else nullcontext(raw) as file:
                return _read(file, size, packed, str(path))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileFormatError(f"{path} is not a whole gzip file: {error}") from error
    except OSError as error:
        raise FileAccessError(f"cannot read {path}: {error.strerror or error}") from error


def _read(file: BufferedIOBase, size: int, packed: bool, place: str) -> np.ndarray:
    dtype, shape, header = _header(file, place)
    claimed = prod(shape) * dtype.itemsize
    if packed:
        check_unpacked(claimed, size, place)
    elif header + claimed != size:
        raise FileFormatError(f"{place}: the header claims {claimed:,} bytes of data; the file holds {size - header:,}")
    data = bytearray()
    while len(data) < claimed and (chunk := file.read(min(_CHUNK, claimed - len(data)))):
        data += chunk
    if len(data) < claimed:
        raise FileFormatError(f"{place}: the header claims {claimed:,} bytes of data; the file holds {len(data):,}")
    # Reading past the end also makes gzip compare its checksum.
    if file.read(1):
        raise FileFormatError(f"{place}: there are more bytes than the {claimed:,} that the header claims")
    return np.frombuffer(data, dtype).reshape(shape)


def _header(file: BufferedIOBase, place: str) -> tuple[np.dtype, tuple[int, ...], int]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not 1 <= magic[3] <= _MAX_AXES:
        raise FileFormatError(f"{place} is not an IDX file: it begins with the bytes {magic.hex(' ') or 'of an empty file'}")
    lengths = file.read(4 * magic[3])
    if len(lengths) < 4 * magic[3]:
        raise FileFormatError(f"{place} ends within its IDX header of {magic[3]} axes")
    shape = struct.unpack(f">{magic[3]}I", lengths)
    if 0 in shape:
        raise DataError(f"{place} holds no samples: its shape is {shape}")
    return np.dtype(_TYPES[magic[2]]), shape, 4 + len(lengths)


def load_idx(folder: Path) -> Dataset:
    """MNIST's four files in `folder`, under their own names: images `(N, 1, H, W)` scaled by 1/255, class numbers `(N,)`."""
    if not folder.is_dir():
        raise FileAccessError(f"cannot read idx:{folder}: there is no such folder")
    parts = []
    for part in ("train", "t10k"):
        images, labels = _find(folder, f"{part}-images", 3), _find(folder, f"{part}-labels", 1)
        x, y = read_idx(images), read_idx(labels)
        if x.dtype != np.uint8 or x.ndim != 3:
            raise FileFormatError(f"{images} must hold images (N, H, W) of unsigned bytes; got {x.dtype} of shape {x.shape}")
        if len(x) != len(y):
            raise DataError(f"{images} holds {len(x)} images and {labels.name} {len(y)} labels; each image needs one")
        parts.append((x[:, None], y))
    return assemble(f"idx:{folder}", *parts, scale=1 / 255)


def _find(folder: Path, stem: str, axes: int) -> Path:
    names = [f"{stem}{dot}idx{axes}-ubyte{suffix}" for suffix in ("", ".gz") for dot in "-."]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileAccessError(f"cannot read {folder / names[0]}: no such file, nor {', '.join(names[1:])}")
