"""Nothing half-written: every file appears whole, or not at all."""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import ConvlayersError, FileAccessError


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


@contextmanager
def writing(*paths: str | os.PathLike[str]) -> Iterator[Sequence[BinaryIO]]:
    """A file beside each path, open for writing; when the block ends well, they take their places together.

    All are flushed to disk before the first is renamed: a reader sees an old file or a new one, never a part. Where the block
    or the disk fails, the old files stay as they are and nothing else is left.
    """
    targets = [check_target(path) for path in paths]
    beside = [_beside(target) for target in targets]
    try:
        with ExitStack() as opened:
            files = [opened.enter_context(open(place, "xb")) for place in beside]
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        for place, target in zip(beside, targets, strict=True):
            os.replace(place, target)
        for folder in {target.parent for target in targets}:
            _flush_folder(folder)
    except ConvlayersError:  # the block's own; some are an OSError too
        raise
    except OSError as error:
        raise FileAccessError(f"cannot write {' and '.join(map(str, paths))}: {_reason(error)}") from error
    finally:
        for place in beside:
            place.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write beside the place, flush to disk, rename: a reader sees the old file or the new one, never a part."""
    with writing(path) as [file]:
        file.write(data)


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
