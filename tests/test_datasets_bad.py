"""What every kind of bad IDX and .npz file gets: an error that names it, and no memory."""

import gzip
import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from conftest import idx_bytes

from convlayers import datasets
from convlayers.datasets.idx import read_idx
from convlayers.errors import (
    ConvlayersError,
    DataError,
    FileAccessError,
    FileFormatError,
)

# IDX


def test_idx_missing_file_is_named(toy_idx):
    (toy_idx / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileAccessError, match=r"t10k-labels-idx1-ubyte: no such file, nor .*\.gz"):
        datasets.load(f"idx:{toy_idx}")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x08", "not an IDX file"),
        (b"\0\1\x08\1\0\0\0\1x", "not an IDX file"),
        (b"\0\0\x0a\1\0\0\0\1x", "not an IDX file"),
        (b"\0\0\x08\0x", "not an IDX file"),
        (b"\0\0\x08\xff" + b"\1" * 2000, "not an IDX file"),
        (b"\0\0\x08\3\0\0\0\1\0\0", "ends within its IDX header"),
        (b"\0\0\x08\1\0\0\0\3xy", "claims 3 bytes of data; the file holds 2"),
        (b"\0\0\x08\1\0\0\0\1xy", "claims 1 bytes of data; the file holds 2"),
        (b"\0\0\x08\3" + b"\xff" * 12, "the file holds 0"),
        (b"\0\0\x08\2\0\0\0\0\xff\xff\xff\xff", r"no samples: its shape is \(0, 4294967295\)"),
        (gzip.compress(b"\0\0\x08\1\0\0\0\3xy"), "the file holds 2"),
        (gzip.compress(b"\0\0\x08\1\0\0\0\1xy"), "more bytes than the 1"),
        (gzip.compress(b"\0\0\x08\3" + b"\xff" * 12), "compressed bytes cannot hold"),
        (gzip.compress(b"\0\0\x08\1\0\0\0\3xyz")[:-9], "gzip"),
        (gzip.compress(b"\0\0\x08\1\0\0\0\3xyz")[:-8] + b"\0" * 8, "gzip"),
        (b"\x1f\x8b" + b"junk" * 9, "gzip"),
    ],
)
def test_idx_bad_bytes(tmp_path, data, words):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises((FileFormatError, DataError), match=words) as caught:
        read_idx(tmp_path / "a")
    assert str(tmp_path / "a") in str(caught.value)


def peak_memory(path):
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError):
            datasets.load(path) if path.suffix == ".npz" else read_idx(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_idx_bombs_take_no_memory(tmp_path):
    """8 MB of zeros behind a header for one byte, and behind a header for a gigabyte that 8 kB might just unpack to."""
    zeros = bytes(8 << 20)
    (tmp_path / "little").write_bytes(gzip.compress(b"\0\0\x08\1\0\0\0\1" + zeros))
    (tmp_path / "much").write_bytes(gzip.compress(b"\0\0\x08\1" + struct.pack(">I", 1 << 30) + zeros))
    for name in ("little", "much"):
        assert peak_memory(tmp_path / name) < 2 << 20


def test_idx_images_must_be_unsigned_bytes(toy_idx, toy_arrays):
    for bad in (toy_arrays["x_test"].astype("f4"), toy_arrays["x_test"][:, 0]):
        (toy_idx / "t10k-images.idx3-ubyte").write_bytes(idx_bytes(bad))
        with pytest.raises(FileFormatError, match=r"t10k-images.* must hold images \(N, H, W\) of unsigned bytes"):
            datasets.load(f"idx:{toy_idx}")


def test_idx_counts_differ(toy_idx, toy_arrays):
    (toy_idx / "train-labels.idx1-ubyte").write_bytes(idx_bytes(toy_arrays["y_train"][:-1].astype(np.uint8)))
    with pytest.raises(DataError, match=r"40 images and train-labels\.idx1-ubyte 39 labels"):
        datasets.load(f"idx:{toy_idx}")


# Arrays, by way of .npz


def nan_at(array, index, value=np.nan):
    array = array.astype(np.float32)
    array[index] = value
    return array


BAD_ARRAYS = {
    "nan": (
        lambda a: {"x_train": nan_at(a["x_train"], (7, 1, 2)), "x_test": a["x_test"] / 1.0},
        r"x_train\[7, 0, 1, 2\] is nan",
    ),
    "too large for float32": (
        lambda a: {"x_train": a["x_train"] / 1.0, "x_test": np.full((10, 8, 8), 1e300)},
        r"x_test\[0, 0, 0, 0\] is 1e\+300, not a finite float32",
    ),
    "float labels": (lambda a: {"y_train": a["y_train"] * 1.0}, "y_train must hold integers, the class numbers; got float64"),
    "boolean labels": (lambda a: {"y_test": a["y_test"] > 0}, "y_test must hold integers"),
    "negative label": (lambda a: {"y_test": a["y_test"] - 1}, r"y_test\[0\] is -1; class numbers run from 0"),
    "huge label": (lambda a: {"y_test": a["y_test"] * 10**12}, r"y_test\[1\] is 1000000000000"),
    "unsigned label": (lambda a: {"y_test": np.full(10, 2**64 - 1, np.uint64)}, r"y_test\[0\] is 18446744073709551615"),
    "one-hot labels": (lambda a: {"y_train": np.eye(2, dtype=int)[a["y_train"]]}, r"y_train must be \(N,\)"),
    "counts": (lambda a: {"y_train": a["y_train"][1:]}, "x_train has 40 samples and y_train 39 labels"),
    "no samples": (lambda a: {"x_test": a["x_test"][:0], "y_test": a["y_test"][:0]}, "x_test holds no samples"),
    "no pixels": (lambda a: {"x_test": a["x_test"][:, :0]}, "x_test holds no samples"),
    "other size": (lambda a: {"x_test": a["x_test"][:, :7]}, r"\(1, 8, 8\) in x_train but \(1, 7, 8\) in x_test"),
    "one axis": (lambda a: {"x_test": a["x_test"][:, 0, 0]}, r"x_test must be \(N, ...\)"),
    "integers": (lambda a: {"x_train": a["x_train"].astype(int)}, r"x_train must be uint8 \(pixels.* got int64"),
    "one of two scaled": (lambda a: {"x_test": a["x_test"] / 255}, "x_train is uint8 and x_test float64"),
    "objects": (lambda a: {"y_train": a["y_train"].astype(object)}, "y_train holds Python objects, which are never loaded"),
    "strings": (lambda a: {"y_train": a["y_train"].astype(str)}, "y_train must hold real numbers; got dtype <U"),
    "complex": (lambda a: {"x_train": a["x_train"] * 1j}, "x_train must hold real numbers; got dtype complex128"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays(tmp_path, toy_arrays, case):
    change, words = BAD_ARRAYS[case]
    path = tmp_path / "bad.npz"
    np.savez(path, **{**toy_arrays, **change(toy_arrays)})
    with pytest.raises((DataError, FileFormatError), match=words) as caught:
        datasets.load(path)
    assert str(path) in str(caught.value)


def test_npz_lacks_keys(tmp_path, toy_arrays):
    np.savez(tmp_path / "a.npz", x_train=toy_arrays["x_train"], y_train=toy_arrays["y_train"])
    with pytest.raises(FileFormatError, match="lacks x_test, y_test"):
        datasets.load(tmp_path / "a.npz")


def npy(header_shape, data=b"12345678", dtype="<f8"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": header_shape})
    return file.getvalue() + data


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 20, 1 << 20, 1 << 20), (2,), (0,), (-1, -1), (1 << 80,), (1 << 80, 0)])
def test_npz_header_claims_another_size(tmp_path, toy_npz, compression, shape):
    path = tmp_path / "claims.npz"
    with zipfile.ZipFile(toy_npz) as good, zipfile.ZipFile(path, "w", compression) as bad:
        for name in good.namelist():
            bad.writestr(name, npy(shape) if name == "x_test.npy" else good.read(name))
    assert peak_memory(path) < 2 << 20


def test_npz_of_another_compression(tmp_path, toy_npz):
    path = tmp_path / "lzma.npz"
    with zipfile.ZipFile(toy_npz) as good, zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as bad:
        for name in good.namelist():
            bad.writestr(name, good.read(name))
    with pytest.raises(FileFormatError, match="compressed by a method that NumPy does not write"):
        datasets.load(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_damaged_anywhere(tmp_path, toy_arrays, compressed):
    """Cut or overwritten at any place, a file is read as it was or refused; nothing else may come out."""
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    (np.savez_compressed if compressed else np.savez)(good, **toy_arrays)
    data, expected = good.read_bytes(), datasets.load(good)
    rng = np.random.default_rng(2)
    refused = 0
    for trial in range(200):
        damaged = bytearray(data)
        if trial % 4 == 0:
            del damaged[rng.integers(len(data)) :]
        else:
            damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        bad.write_bytes(damaged)
        try:
            found = datasets.load(bad)
        except ConvlayersError:
            refused += 1
        else:
            assert np.array_equal(found.x_train, expected.x_train), trial
    assert refused > 100
