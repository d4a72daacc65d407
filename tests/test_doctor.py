"""What `bielik doctor` finds, with machines that lack one thing or another."""

import json
import platform
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from nemo_bielik import doctor
from nemo_bielik.doctor import Check, DoctorConfig, run_doctor

ROOT = Path(__file__).parents[1]
DiskUsage = namedtuple("DiskUsage", "total used free")


def test_the_test_machine_can_run_the_chain(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor(DoctorConfig()) == 0
    text = capsys.readouterr().out
    assert "The chain can run here." in text
    assert "Transformer Engine" in text


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor(DoctorConfig(json=True)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    names = [check["name"] for check in found["checks"]]
    assert {"Python", "cores", "memory", "disk", "torch", "megatron-core", "runtime"} <= set(names)
    for check in found["checks"]:
        assert check["advice"] or check["status"] == "ok", check


def test_pins_are_those_of_pyproject() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = [*project["dependencies"], *project["optional-dependencies"]["engine"]]
    found = {r.name: r.specifier for r in doctor.pinned_requirements()}
    assert found == {r.name: r.specifier for r in map(Requirement, stated)}


def test_a_lack_gives_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lack = Check("torch", "lack", "not installed", "run 'make env'")
    monkeypatch.setattr(doctor, "examine", lambda output: [lack])
    assert run_doctor(DoctorConfig()) == 1
    text = capsys.readouterr().out
    assert "LACKS torch" in text
    assert "→ run 'make env'" in text
    assert "cannot run here" in text


@pytest.mark.parametrize(
    ("requirement", "status"),
    [
        ("pytest>=1", "ok"),
        ("pytest<1", "warning"),
        ("no-such-package==1", "lack"),
    ],
)
def test_versions_are_compared_with_their_pins(
    monkeypatch: pytest.MonkeyPatch, requirement: str, status: str
) -> None:
    monkeypatch.setattr(doctor, "pinned_requirements", lambda: [Requirement(requirement)])
    (check,) = doctor.check_packages()
    assert check.status == status
    assert (status == "ok") == (check.advice == "")


@pytest.mark.parametrize(("free_gib", "status"), [(0.5, "lack"), (2, "warning"), (50, "ok")])
def test_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_gib: float, status: str
) -> None:
    usage = DiskUsage(0, 0, int(free_gib * 2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    check = doctor.check_disk(tmp_path / "not" / "yet")
    assert check.status == status
    assert str(tmp_path) in check.found


@pytest.mark.parametrize(("gib", "status"), [(2, "warning"), (16, "ok")])
def test_memory(monkeypatch: pytest.MonkeyPatch, gib: int, status: str) -> None:
    monkeypatch.setattr(doctor, "memory_bytes", lambda: gib * 2**30)
    assert doctor.check_memory().status == status


def test_another_python_is_a_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "python_version", lambda: "3.11.9")
    assert doctor.check_python().status == "lack"


def test_a_torch_that_does_not_import_is_a_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    check = doctor.check_runtime()
    assert check.status == "lack"
    assert "\n" not in check.found


def test_without_cuda_the_cpu_runtime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check = doctor.check_runtime()
    assert check.status == "note"
    assert "gloo" in check.advice


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Test GPU")
    assert doctor.check_runtime() == Check("runtime", "ok", "2 GPU(s), NCCL: Test GPU")


def test_absent_tools_are_notes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda program: None)
    assert {check.status for check in doctor.check_tools()} == {"note"}
