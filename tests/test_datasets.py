"""Data sets: what is read, and what bad names and bad folders of images get."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import idx_bytes

from convlayers import datasets
from convlayers.datasets.dataset import split
from convlayers.datasets.idx import read_idx
from convlayers.errors import (
    ConfigError,
    DataError,
    FileAccessError,
    FileFormatError,
    MissingDependencyError,
)


def check_whole(data):
    """What a Dataset promises."""
    for part in ("train", "test"):
        x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
        assert x.dtype == np.float32
        assert x.flags.c_contiguous
        assert np.isfinite(x).all()
        assert y.dtype == np.int64
        assert y.shape == (len(x),)
        assert x.shape[1:] == data.input_shape
        assert 0 <= y.min() <= y.max() < data.classes == len(data.labels)
        assert all(isinstance(label, str) for label in data.labels)


# What is read


def test_digits_are_split_the_same_way_every_time():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn.datasets import load_digits

    data = datasets.load("digits")
    check_whole(data)
    assert data.x_train.shape == (1438, 1, 8, 8)
    assert data.x_test.shape == (359, 1, 8, 8)
    assert data.labels == list("0123456789")
    assert data.preprocessing == {"layout": "NCHW", "scale": 1 / 16}
    # Every image of scikit-learn's is there once.
    both = np.concatenate([data.x_train, data.x_test]).reshape(-1, 64) * 16
    assert sorted(map(bytes, both.astype(np.uint8))) == sorted(map(bytes, load_digits().data.astype(np.uint8)))
    # The split is part of every published figure: these numbers may not change.
    assert data.y_test[:12].tolist() == [9, 5, 2, 8, 2, 2, 6, 8, 8, 4, 2, 2]


def test_split_is_a_permutation():
    train, test = split(103, "x")
    assert sorted([*train, *test]) == list(range(103))
    assert len(test) == 20
    again = split(103, "x")
    assert np.array_equal(train, again[0])
    assert len(split(2, "x")[1]) == 1
    with pytest.raises(DataError, match="at least 2"):
        split(1, "x")


def test_real_mnist(mnist_dir):
    data = datasets.load(f"idx:{mnist_dir}")
    check_whole(data)
    assert data.x_train.shape == (7000, 1, 28, 28)
    assert data.x_test.shape == (1000, 1, 28, 28)
    assert data.classes == 10
    assert data.x_train.max() == 1.0
    assert data.preprocessing["scale"] == 1 / 255


def test_idx_plain_gzip_and_both_spellings(toy_idx, toy_arrays):
    data = datasets.load(f"idx:{toy_idx}")
    check_whole(data)
    assert np.array_equal(data.x_train[:, 0], toy_arrays["x_train"].astype(np.float32) / 255)
    assert np.array_equal(data.y_test, toy_arrays["y_test"])
    assert data.labels == ["0", "1"]


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_idx_element_types(tmp_path, dtype):
    array = np.array([[1, 2, 3], [4, 100, 6]], dtype)
    (tmp_path / "a").write_bytes(idx_bytes(array))
    assert np.array_equal(read_idx(tmp_path / "a"), array)


def test_npz(toy_npz, toy_arrays):
    data = datasets.load(toy_npz)
    check_whole(data)
    assert data.x_train.shape == (40, 1, 8, 8)
    assert np.array_equal(data.x_test[:, 0], toy_arrays["x_test"].astype(np.float32) / 255)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", ">f8"])
def test_npz_floats_stay_as_they_are(tmp_path, toy_arrays, dtype):
    x = (toy_arrays["x_train"][:, None] / 128).astype(dtype)
    x = np.asfortranarray(np.repeat(x, 3, 1))
    path = tmp_path / "f.npz"
    np.savez_compressed(path, x_train=x, y_train=toy_arrays["y_train"].astype(">u2"), x_test=x, y_test=toy_arrays["y_train"])
    data = datasets.load(path)
    check_whole(data)
    assert data.input_shape == (3, 8, 8)
    assert np.array_equal(data.x_train, x.astype(np.float32))
    assert data.preprocessing["scale"] == 1.0


def test_npz_rows(tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(path, x_train=np.ones((4, 7)), y_train=[0, 1, 2, 0], x_test=np.ones((1, 7)), y_test=[3])
    data = datasets.load(path)
    assert data.input_shape == (7,)
    assert data.labels == ["0", "1", "2", "3"]


@pytest.fixture
def images():
    return pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def write_images(images, folder, classes, shape, count=5):
    rng = np.random.default_rng(1)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            images.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name / f"{i}.png")


def test_folder_with_a_fixed_split(tmp_path, images):
    write_images(images, tmp_path, ["cat", "ant", "bee"], (6, 4))
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    data = datasets.load(tmp_path)
    check_whole(data)
    assert data.labels == ["ant", "bee", "cat"]
    assert data.input_shape == (1, 6, 4)
    assert (len(data.x_train), len(data.x_test)) == (12, 3)
    assert np.array_equal(data.x_train, datasets.load(tmp_path).x_train)


def test_folder_with_train_and_test(tmp_path, images):
    write_images(images, tmp_path / "train", ["a", "b"], (6, 4, 3))
    write_images(images, tmp_path / "test", ["b"], (6, 4, 3), 2)
    data = datasets.load(tmp_path)
    check_whole(data)
    assert data.input_shape == (3, 6, 4)
    assert data.y_test.tolist() == [1, 1]
    pixels = np.asarray(images.open(tmp_path / "test" / "b" / "0.png"))
    assert np.array_equal(data.x_test[0], pixels.transpose(2, 0, 1).astype(np.float32) / 255)


# Bad names


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("digit", ConfigError, "'digit'; give digits, idx:DIR"),
        ("no/such/folder", FileAccessError, "no/such/folder"),
        ("nothing.npz", FileAccessError, "cannot read nothing.npz: No such file"),
        ("idx:nowhere", FileAccessError, "idx:nowhere"),
    ],
)
def test_bad_names(spec, error, words):
    with pytest.raises(error, match=words):
        datasets.load(spec)


@pytest.mark.parametrize(("module", "spec", "extra"), [("sklearn", "digits", "digits"), ("PIL", None, "images")])
def test_missing_packages(monkeypatch, tmp_path, images, module, spec, extra):
    write_images(images, tmp_path, ["a"], (4, 4))
    for name in [n for n in sys.modules if n == module or n.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf'pip install "convlayers\[{extra}\]"'):
        datasets.load(spec or tmp_path)


# Bad folders


def test_bad_folders(tmp_path, images):
    with pytest.raises(DataError, match="holds no classes"):
        datasets.load(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no images"):
        datasets.load(tmp_path)
    (tmp_path / "empty").rmdir()
    write_images(images, tmp_path / "train", ["a"], (6, 4))
    write_images(images, tmp_path / "test", ["a", "z"], (6, 4))
    with pytest.raises(DataError, match="has the class 'z'"):
        datasets.load(tmp_path)


@pytest.mark.parametrize(
    ("shape", "mode", "words"),
    [
        ((6, 5), None, "grey of 6x5, .* is grey of 6x4; all images must be alike"),
        ((4, 6), None, "grey of 4x6"),
        ((6, 4, 3), None, "RGB of 6x4, .* is grey of 6x4"),
        ((6, 4, 4), None, "mode RGBA; save it as grey"),
        ((6, 4), "P", "mode P"),
    ],
)
def test_images_that_differ(tmp_path, images, shape, mode, words):
    write_images(images, tmp_path, ["a"], (6, 4))
    odd = images.fromarray(np.zeros(shape, np.uint8))
    (odd.convert(mode) if mode else odd).save(tmp_path / "a" / "9.png")
    with pytest.raises(DataError, match=words):
        datasets.load(tmp_path)


def test_damaged_image_is_named(tmp_path, images):
    write_images(images, tmp_path, ["a"], (60, 40))
    whole = (tmp_path / "a" / "3.png").read_bytes()
    for damaged in (whole[:200], b"", b"text"):
        (tmp_path / "a" / "3.png").write_bytes(damaged)
        with pytest.raises(FileFormatError, match=r"3\.png is not a whole image"):
            datasets.load(tmp_path)


def test_loading_imports_only_what_the_set_needs(toy_npz):
    code = (
        "import sys, convlayers; convlayers.datasets.load(sys.argv[1]);"
        "print([m for m in ('sklearn', 'PIL', 'onnx', 'tqdm') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code, str(toy_npz)], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
