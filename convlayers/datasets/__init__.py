"""Data sets for image classification, ready for a trainer: arrays in memory, checked at the door."""

import os
from pathlib import Path

from ..errors import ConfigError, FileAccessError
from .dataset import Dataset

__all__ = ["Dataset", "load"]


def load(spec: str | os.PathLike[str]) -> Dataset:
    """The data set that `spec` names, read from the disk; nothing is downloaded.

    ===============  ==============================================================================================
    `digits`         the 1,797 8x8 digits that scikit-learn brings (extra `digits`), a fixed 80/20 split
    `idx:DIR`        MNIST's four files, plain or gzip: `train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, ...
    `FILE.npz`       arrays `x_train`, `y_train`, `x_test`, `y_test`; `uint8` is scaled by 1/255, floats stay
    a folder         one subfolder of images a class (extra `images`), in `train/` and `test/` or with a fixed split
    ===============  ==============================================================================================

    Raises `ConfigError` for a spec that is none of these, `FileAccessError` for a file that cannot be read,
    `FileFormatError` for one that is corrupt, `DataError` for values that no training can use (NaN, labels that are not
    class numbers, no samples), `MissingDependencyError` where an extra is needed.
    """
    text = os.fspath(spec)
    if text == "digits":
        from .digits import load_digits

        return load_digits()
    if text.startswith("idx:"):
        from .idx import load_idx

        return load_idx(Path(text.removeprefix("idx:")).expanduser())
    path = Path(text)
    if path.suffix.lower() == ".npz":
        from .npz import load_npz

        return load_npz(path)
    if path.is_dir():
        from .folder import load_folder

        return load_folder(path)
    if path.exists() or len(path.parts) > 1:
        raise FileAccessError(f"cannot read {text}: it is neither an .npz file nor a folder of images")
    raise ConfigError(f"no data set is called {text!r}; give digits, idx:DIR, FILE.npz or a folder with one subfolder a class")
