"""Nothing half-written: every file appears whole, or not at all."""

import os
import secrets
from pathlib import Path

from .errors import FileAccessError


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def check_target(path: str | os.PathLike[str]) -> Path:
    """The real path that a file will be written to; `FileAccessError` now rather than after hours of training."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise FileAccessError(f"cannot write {path}: it is a folder")
    if not target.parent.is_dir():
        raise FileAccessError(f"cannot write {path}: the folder {target.parent} does not exist")
    # Asking for permission is not enough: some file systems grant it and refuse the file.
    trial = _beside(target)
    try:
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise FileAccessError(f"cannot write {path}: {_reason(error)}") from error
    return target


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write beside the place, flush to disk, rename: a reader sees the old file or the new one, never a part."""
    target = check_target(path)
    beside = _beside(target)
    try:
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
        _flush_folder(target.parent)
    except OSError as error:
        raise FileAccessError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        beside.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    # The rename itself must reach the disk; Windows cannot open folders and does not need it.
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_whole(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a file; `FileAccessError` with the reason where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileAccessError(f"cannot read {path}: {_reason(error)}") from error
