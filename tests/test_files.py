"""Outputs appear whole or not at all; trouble with the disk is one line."""

import errno
import os
import shutil
import subprocess

import pytest

from nemo_bielik.errors import StorageError
from nemo_bielik.files import (
    atomic_directory,
    atomic_file,
    explain_disk_errors,
    file_sha256,
    file_system,
    link_tree,
    refuse_existing,
    require_space,
    value_sha256,
    write_json,
)


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 64 KiB; needs the right to mount, which CI may not have."""
    place = tmp_path / "small-disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        made = False
    if not made:
        pytest.skip("a small tmpfs cannot be mounted here (needs root)")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # torch leaves files open


def test_a_directory_appears_whole(tmp_path):
    output = tmp_path / "deep" / "output"
    with atomic_directory(output) as scratch:
        (scratch / "a.txt").write_text("a")
        assert not output.exists()
    assert (output / "a.txt").read_text() == "a"
    assert [path.name for path in output.parent.iterdir()] == ["output"]


def test_everything_reaches_the_disk_before_the_name_does(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def synced(number):
        events.append(os.readlink(f"/proc/self/fd/{number}"))
        fsync(number)

    def renamed(source, target):
        events.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with atomic_directory(tmp_path / "output") as scratch:
        (scratch / "deep").mkdir()
        (scratch / "deep" / "a.txt").write_text("a")
    before, after = events[: events.index("renamed")], events[events.index("renamed") + 1 :]
    wanted = {scratch, scratch / "deep", scratch / "deep" / "a.txt"}
    assert {str(path) for path in wanted} <= set(before)
    assert after == [str(tmp_path)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_directory_leaves_nothing(tmp_path, error):
    with pytest.raises(error), atomic_directory(tmp_path / "output") as scratch:
        (scratch / "half.txt").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_the_scratch_of_a_killed_run_is_cleared(tmp_path):
    (tmp_path / ".output.partial").mkdir()
    (tmp_path / ".output.partial" / "old.txt").write_text("old")
    with atomic_directory(tmp_path / "output"):
        pass
    assert list((tmp_path / "output").iterdir()) == []


def test_an_existing_output_is_refused(tmp_path):
    with (
        pytest.raises(StorageError, match="already exists; remove it"),
        atomic_directory(tmp_path),
    ):
        pass
    refuse_existing(tmp_path / "new")


def test_a_failed_file_keeps_the_old_one(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"name": "żółw"})
    with pytest.raises(ValueError), atomic_file(path) as scratch:
        scratch.write_text("half")
        raise ValueError
    assert "żółw" in path.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["value.json"]


def test_a_full_disk_is_one_line_and_leaves_nothing(full_disk):
    with (
        pytest.raises(StorageError, match="no space left on device") as caught,
        atomic_directory(full_disk / "output") as scratch,
    ):
        (scratch / "big").write_bytes(bytes(200_000))
    assert "\n" not in str(caught.value)
    assert list(full_disk.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_disk_errors_become_storage_errors(tmp_path, code):
    with (
        pytest.raises(StorageError, match="choose another output"),
        explain_disk_errors(tmp_path),
    ):
        raise OSError(code, os.strerror(code))


def test_torch_on_a_full_disk_is_understood(full_disk):
    """Its writer keeps the number of the system's error to itself."""
    torch = pytest.importorskip("torch")
    with pytest.raises(StorageError, match="no space left"), explain_disk_errors(full_disk):
        torch.save(torch.zeros(100_000), full_disk / "big")


def test_a_file_system_is_named_with_its_free_bytes(full_disk):
    (full_disk / "deep").mkdir()
    (full_disk / "half").write_bytes(bytes(32 << 10))
    assert file_system(full_disk / "deep") == (full_disk, 32 << 10)


def test_a_tree_gets_second_names(tmp_path):
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "a").write_text("a")
    link_tree(source, tmp_path / "target")
    link_tree(source / "deep" / "a", tmp_path / "b")
    shutil.rmtree(source)
    assert (tmp_path / "target" / "deep" / "a").read_text() == "a"
    assert (tmp_path / "b").read_text() == "a"


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError), explain_disk_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_space_is_measured_where_the_output_will_be(tmp_path):
    require_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(StorageError, match=r"needs 1000000000\.00 GB, only"):
        require_space(tmp_path / "not" / "yet", 10**18)


def test_hashes_name_the_content(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-4
    assert file_sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")
    assert value_sha256({"a": 1, "b": 2}) == value_sha256({"b": 2, "a": 1})
    assert value_sha256({"a": 1}) != value_sha256({"a": 2})
