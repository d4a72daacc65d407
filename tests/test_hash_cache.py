"""Hashes are remembered while a file stays as it was, and never where that is in doubt."""

import os
import shutil
import time
from pathlib import Path
from unittest import mock

import pytest

from nemo_bielik import hash_cache
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.files import file_sha256
from nemo_bielik.hash_cache import remembered_sha256

SETTLED_SECONDS = 0.02  # a kernel's time stamps have steps of up to 10 ms


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own that takes files of any size and age."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_cache, "WORTH_REMEMBERING_BYTES", 0)
    monkeypatch.setattr(hash_cache, "SETTLED_SECONDS", SETTLED_SECONDS)
    return tmp_path / "cache" / "nemo-bielik" / "sha256"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"first")
    time.sleep(2 * SETTLED_SECONDS)
    return path


def poison(cache):
    """Put a value into the one entry that no file has, so that its use shows."""
    (entry,) = cache.iterdir()
    entry.write_text("0" * 64)
    return "0" * 64


def test_an_untouched_file_is_not_read_again(cache, file):
    assert remembered_sha256(file) == file_sha256(file)
    value = poison(cache)
    assert remembered_sha256(file) == value
    assert remembered_sha256(file, fresh=True) == file_sha256(file)
    assert remembered_sha256(file) == file_sha256(file)  # which mended the entry


def same_times(path, change):
    """Change a file and put its modification time back, as tools that copy times do."""
    found = path.stat()
    change()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def replaced(path):
    (path.parent / "new").write_bytes(b"other")
    os.replace(path.parent / "new", path)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"longer than before"),
        lambda path: path.write_bytes(b"other"),
        lambda path: same_times(path, lambda: path.write_bytes(b"other")),
        lambda path: same_times(path, lambda: replaced(path)),
    ],
)
def test_a_changed_file_is_read_again(cache, file, change):
    remembered_sha256(file)
    poison(cache)
    change(file)
    assert remembered_sha256(file) == file_sha256(file)


def test_a_file_changed_a_moment_ago_is_not_remembered(cache, file, monkeypatch):
    monkeypatch.setattr(hash_cache, "SETTLED_SECONDS", 60.0)
    assert remembered_sha256(file) == file_sha256(file)
    os.utime(file, (0, 0))  # as old as it may claim to be: its inode knows better
    assert remembered_sha256(file) == file_sha256(file)
    assert not cache.exists()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(cache, file, monkeypatch):
    def slow(path):
        digest = file_sha256(path)
        path.write_bytes(b"other")
        return digest

    monkeypatch.setattr(hash_cache, "file_sha256", slow)
    remembered_sha256(file)
    assert not cache.exists()


def test_small_files_are_not_remembered(cache, file, monkeypatch):
    monkeypatch.setattr(hash_cache, "WORTH_REMEMBERING_BYTES", 6)
    remembered_sha256(file)
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"", b"g" * 64, b"\xff" * 64, b"0" * 63])
def test_a_damaged_entry_is_ignored(cache, file, content):
    remembered_sha256(file)
    (entry,) = cache.iterdir()
    entry.write_bytes(content)
    assert remembered_sha256(file) == file_sha256(file)


@pytest.mark.parametrize("obstacle", ["a file", "relative", "no home"])
def test_nothing_is_needed_of_the_cache(cache, file, monkeypatch, tmp_path, obstacle):
    if obstacle == "a file":
        (tmp_path / "cache").write_text("in the way")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if obstacle == "no home":
        monkeypatch.setattr(Path, "home", mock.Mock(side_effect=RuntimeError))
    for _ in range(2):
        assert remembered_sha256(file) == file_sha256(file)
    assert (tmp_path / "home" / ".cache").exists() is (obstacle == "relative")


def test_fingerprints_are_the_same_with_and_without(cache, make_model, tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(make_model(shard="4KB"), directory)
    time.sleep(2 * SETTLED_SECONDS)
    wanted = Checkpoint.open(directory).fingerprint(fresh=True)
    count = len(list(directory.glob("*.safetensors")))
    assert len(list(cache.iterdir())) == count > 2
    assert Checkpoint.open(directory).fingerprint() == wanted
    shard = sorted(directory.glob("*.safetensors"))[1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert Checkpoint.open(directory).fingerprint() != wanted
