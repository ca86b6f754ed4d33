"""Files that appear whole or not at all, one or several together."""

import errno
import os

import pytest

from convlayers.errors import ExportError, FileAccessError
from convlayers.files import write_whole, writing


def test_two_files_take_their_places_together(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"old")
    with writing(a, b) as (first, second):
        first.write(b"one")
        second.write(b"two")
        assert (a.read_bytes(), b.exists()) == (b"old", False)
    assert (a.read_bytes(), b.read_bytes()) == (b"one", b"two")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("error", [ExportError("no"), FileAccessError("no"), KeyboardInterrupt()])
def test_a_block_that_fails_changes_nothing(tmp_path, error):
    def fail():
        with writing(tmp_path / "a", tmp_path / "b") as (first, _):
            first.write(b"new")
            raise error

    write_whole(tmp_path / "a", b"old")
    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_changes_nothing(tmp_path, monkeypatch, function):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_whole(tmp_path / "a", b"old")
    monkeypatch.setattr(os, function, full)
    with (
        pytest.raises(FileAccessError, match=r"cannot write .*a and .*b: No space left"),
        writing(tmp_path / "a", tmp_path / "b"),
    ):
        pass
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_second_place_that_cannot_be_written_is_found_before_the_first_is(tmp_path):
    with pytest.raises(FileAccessError, match="does not exist"), writing(tmp_path / "a", tmp_path / "none" / "b"):
        pytest.fail("the block was entered")
    assert os.listdir(tmp_path) == []
