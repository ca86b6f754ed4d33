"""Fixtures that several test files share."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from convlayers.cli import main

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root():
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def mnist_dir():
    """8,000 real MNIST digits in their own format, kept beside the repository."""
    folder = ROOT.parent / "shared" / "data" / "mnist-8k"
    if not folder.is_dir():
        pytest.skip("../shared/data/mnist-8k is not here")
    return folder


def idx_bytes(array: np.ndarray) -> bytes:
    """`array` as the bytes of an IDX file."""
    codes = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
    big = array.astype(array.dtype.newbyteorder(">"))
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, codes[array.dtype.str[1:]], array.ndim, *array.shape) + big.tobytes()


@pytest.fixture
def toy_arrays():
    """40 and 10 images of 8x8 in two classes that a small network tells apart: bright on the left, or on the right."""
    rng = np.random.default_rng(0)
    y = np.arange(50) % 2
    x = rng.integers(0, 60, (50, 8, 8), dtype=np.uint8)
    x[y == 0, :, :4] += 180
    x[y == 1, :, 4:] += 180
    return {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:], "y_test": y[40:]}


@pytest.fixture
def toy_npz(tmp_path, toy_arrays):
    """`toy_arrays` as an .npz file."""
    path = tmp_path / "toy.npz"
    np.savez(path, **toy_arrays)
    return path


@pytest.fixture
def toy_idx(tmp_path, toy_arrays):
    """`toy_arrays` as MNIST's four files: gzip and plain, under both spellings of their names."""
    folder = tmp_path / "idx"
    folder.mkdir()
    labels = {part: toy_arrays[f"y_{part}"].astype(np.uint8) for part in ("train", "test")}
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(toy_arrays["x_train"])))
    (folder / "train-labels.idx1-ubyte").write_bytes(idx_bytes(labels["train"]))
    (folder / "t10k-images.idx3-ubyte").write_bytes(idx_bytes(toy_arrays["x_test"]))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels["test"])))
    return folder


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a command in a folder of its own: `run("layers")` gives the exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        code = main([str(a) for a in arguments])
        return (code, *capsys.readouterr())

    return command


@pytest.fixture
def refused(run):
    """Run a command that must fail; its reason must be one line on standard error."""

    def command(code, *arguments):
        actual, out, err = run(*arguments)
        assert (actual, err.count("\n"), err.startswith("convlayers: ")) == (code, 1, True), (actual, out, err)
        assert "Traceback" not in err
        return err

    return command


@pytest.fixture
def train(run, toy_npz):
    """Train on the toy images, which must succeed, and give standard output."""

    def command(*arguments):
        code, out, err = run("train", toy_npz, "--quiet", *arguments)
        assert (code, err) == (0, "")
        return out

    return command
