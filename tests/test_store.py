"""Files: the same bits back, nothing half-written, and an error of ours for every file that is not whole."""

import errno
import json
import os

import numpy as np
import pytest

import convlayers as cl
from convlayers import files, registry
from convlayers.errors import FileAccessError, FileFormatError
from convlayers.model.store import pack


class Normalise(cl.Layer):
    """A layer with a buffer: its running mean is saved, and never trained."""

    def build(self, input_shape, rng):
        self.buffers["mean"] = np.zeros(input_shape, np.float32)
        return input_shape

    def forward(self, x, *, training):
        if training:
            self.buffers["mean"] += 0.5 * (x.mean(axis=0) - self.buffers["mean"])
        return x - self.buffers["mean"].astype(x.dtype), None

    def backward(self, dy, cache):
        return dy


def small(seed=0):
    layers = [cl.Conv2d(2, [3, 2], padding=[[1, 0], [0, 1]]), cl.ReLU(), ("out", cl.Dense(3))]
    return cl.Sequential([*layers[:2], cl.Flatten(), layers[2]], input_shape=(1, 4, 4), seed=seed)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def saved(path):
    small().save(path)
    return path


def test_a_model_comes_back_to_the_bit(path):
    model = small(7)
    model.metadata = {"labels": ["zero", "one", "tw\u00f6"], "mean": 0.5}
    model.parameters()["0.weight"].flat[:3] = [np.float32(1e-42), -0.0, 3.4e38]
    model.save(path)
    again = cl.load(path)
    for (name, value), loaded in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert value.tobytes() == loaded.tobytes(), name
    assert again.to_config() == model.to_config()
    x = np.random.default_rng(0).standard_normal((3, 1, 4, 4)).astype(np.float32)
    assert again(x).tobytes() == model(x).tobytes()


def test_the_same_model_makes_the_same_file(tmp_path):
    for name in ("a", "b"):
        small(3).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_buffers_travel_with_the_model(path, monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    cl.register_layer("tested_normalise")(Normalise)
    model = cl.Sequential([Normalise(), cl.Dense(2)], input_shape=(3,))
    model.forward(np.ones((4, 3), np.float32))
    assert list(model.buffers()) == ["0.mean"]
    assert list(model.parameters()) == ["1.weight", "1.bias"]
    model.save(path)
    np.testing.assert_array_equal(cl.load(path).buffers()["0.mean"], [0.5, 0.5, 0.5])


def test_the_file_is_plain_safetensors(saved):
    from safetensors.numpy import load_file

    arrays = load_file(saved)
    assert {name: a.shape for name, a in arrays.items()} == {n: p.shape for n, p in small().parameters().items()}


# Files that are not whole


def test_every_truncation_is_found(saved):
    data = saved.read_bytes()
    cuts = {0, 1, 7, 8, 9, len(data) - 1, *np.linspace(0, len(data) - 1, 60).astype(int).tolist()}
    for cut in sorted(cuts):
        saved.write_bytes(data[:cut])
        with pytest.raises(FileFormatError, match=r"model\.safetensors is not a whole safetensors file"):
            cl.load(saved)


def test_trailing_bytes_are_found(saved):
    saved.write_bytes(saved.read_bytes() + b"more")
    with pytest.raises(FileFormatError):
        cl.load(saved)


def _flips(length, count, seed):
    rng = np.random.default_rng(seed)
    return zip(rng.integers(0, length, count).tolist(), rng.integers(1, 256, count).tolist(), strict=True)


def _is_same(model, expected):
    state, wanted = model.state_dict(), expected.state_dict()
    same = all(state[name].tobytes() == wanted[name].tobytes() for name in wanted)
    return same and model.to_config() == expected.to_config()


def test_a_flipped_byte_is_found_or_changes_nothing(saved):
    data, expected = saved.read_bytes(), small()
    header = 8 + int.from_bytes(data[:8], "little")
    refused = 0
    for place, value in [*_flips(header, 400, 1), *((header + p, v) for p, v in _flips(len(data) - header, 200, 2))]:
        broken = bytearray(data)
        broken[place] ^= value
        saved.write_bytes(broken)
        try:
            model = cl.load(saved)
        except cl.ConvlayersError:
            refused += 1
        else:
            assert _is_same(model, expected), f"byte {place} changed by {value}: another model was loaded"
    assert refused > 500


def test_any_configuration_loads_or_raises_an_error_of_ours(path):
    """As written by somebody else: the file is whole, its configuration is what the flips left of ours."""
    model = small()
    text = json.dumps(model.to_config())
    counts = {"loaded": 0, "refused": 0}
    for place, value in _flips(len(text), 3000, 3):
        changed = text[:place] + chr((ord(text[place]) ^ value) % 128) + text[place + 1 :]
        try:
            config = json.loads(changed)
        except ValueError:
            continue
        _write(path, model.state_dict(), config)
        try:
            cl.load(path)
            counts["loaded"] += 1
        except cl.ConvlayersError:
            counts["refused"] += 1
    assert min(counts.values()) > 100, counts


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04" * 10, b"\x80\x04\x95" * 20, b"{}", b"\xff" * 64])
def test_foreign_files(path, content):
    path.write_bytes(content)
    with pytest.raises(FileFormatError):
        cl.load(path)


def _write(path, arrays, header):
    path.write_bytes(pack(arrays, header))


@pytest.mark.parametrize("header", [{}, [], 5, None, "text", {"version": 1}, {"version": 99}])
def test_safetensors_files_of_something_else(path, header):
    _write(path, small().state_dict(), header)
    with pytest.raises(FileFormatError, match=r"model\.safetensors"):
        cl.load(path)


def test_safetensors_files_without_our_metadata(path):
    from safetensors.numpy import save

    path.write_bytes(save({"w": np.ones(3, np.float32)}))
    with pytest.raises(FileFormatError, match="but not one that convlayers wrote"):
        cl.load(path)


def test_a_header_that_claims_more_than_the_file_holds(path):
    path.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(FileFormatError):
        cl.load(path)
    claim = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    path.write_bytes(len(claim).to_bytes(8, "little") + claim + bytes(16))
    with pytest.raises(FileFormatError):
        cl.load(path)


@pytest.mark.parametrize("size", [10**6, 10**9, 10**15])
def test_a_configuration_that_claims_more_than_the_file_holds(path, size, monkeypatch):
    """The weights that the configuration describes are never allocated: the file does not hold as many."""
    model = small()
    config = model.to_config()
    config["layers"][0]["config"]["out_channels"] = size
    _write(path, model.state_dict(), config)
    limit = 10**7

    def guarded(real):
        def make(shape, *args, **kwargs):
            assert np.prod(shape, dtype=float) < limit, f"an array of shape {shape} was asked for"
            return real(shape, *args, **kwargs)

        return make

    monkeypatch.setattr(np, "zeros", guarded(np.zeros))
    monkeypatch.setattr(np, "empty", guarded(np.empty))
    with pytest.raises(FileFormatError, match=r"model\.safetensors.*Conv2d \"0\""):
        cl.load(path)


def test_a_state_that_does_not_fit_its_configuration(path):
    model = small()
    state = model.state_dict()
    state["out.bias"] = np.ones(5, np.float32)
    _write(path, state, model.to_config())
    with pytest.raises(FileFormatError, match=r"model\.safetensors: out\.bias is float32 of shape \(3,\) in the model"):
        cl.load(path)


# Places that cannot be written or read


def test_a_missing_file_or_a_folder_cannot_be_read(tmp_path):
    with pytest.raises(FileAccessError, match=r"cannot read .*none: No such file"):
        cl.load(tmp_path / "none")
    with pytest.raises(FileAccessError, match=r"cannot read .*: Is a directory"):
        cl.load(tmp_path)
    with pytest.raises(OSError):
        cl.load(tmp_path)


def _denied(*_, **__):
    raise PermissionError(errno.EACCES, "Permission denied")


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(FileAccessError, match="it is a folder"):
        small().save(tmp_path)
    with pytest.raises(FileAccessError, match=r"the folder .*missing does not exist"):
        small().save(tmp_path / "missing" / "model")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileAccessError, match="does not exist"):
        small().save(tmp_path / "file" / "model")
    monkeypatch.setattr(files.Path, "touch", _denied)
    with pytest.raises(FileAccessError, match="Permission denied"):
        small().save(tmp_path / "model")


def _no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(saved, monkeypatch, function):
    before = saved.read_bytes()
    monkeypatch.setattr(os, function, _no_space)
    with pytest.raises(FileAccessError, match=r"cannot write .*model\.safetensors: No space left on device"):
        small(5).save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_a_disk_that_fills_while_writing(saved, monkeypatch):
    before = saved.read_bytes()
    real = open

    def opened(name, mode="r", *args, **kwargs):
        file = real(name, mode, *args, **kwargs)
        if "x" not in mode:
            return file

        class Full:
            def __enter__(self):
                return self

            def __exit__(self, *exc):
                file.close()

            def write(self, data):
                file.write(data[:10])
                _no_space()

        return Full()

    monkeypatch.setattr(files, "open", opened, raising=False)
    with pytest.raises(FileAccessError, match="No space left on device"):
        small(5).save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_an_interrupt_while_writing_leaves_nothing(saved, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    before = saved.read_bytes()
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small(5).save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_writing_through_a_link_keeps_the_link(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    small().save(link)
    assert link.is_symlink()
    assert cl.load(target).output_shape == (3,)
