"""Scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels, from 0 to 16 (Alpaydin and Kaynak 1998)."""

from ..errors import MissingDependencyError
from .dataset import Dataset, assemble, split


def load_digits() -> Dataset:
    """1,438 images for training and 359 for testing, `(N, 1, 8, 8)`, scaled by 1/16; always the same split."""
    try:
        from sklearn.datasets import load_digits as from_sklearn
    except ImportError as error:
        raise MissingDependencyError(
            'the data set "digits" comes with scikit-learn, which is not installed: pip install "convlayers[digits]"'
        ) from error
    bunch = from_sklearn()
    x, y = bunch.images[:, None], bunch.target
    train, test = split(len(x), "digits")
    labels = [str(name) for name in bunch.target_names]
    return assemble("digits", (x[train], y[train]), (x[test], y[test]), scale=1 / 16, labels=labels)
