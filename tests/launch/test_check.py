"""The template of a site file works once it is filled in; checks say what is missing."""

import re
from pathlib import Path

import pytest

from nemo_bielik.errors import StorageError
from nemo_bielik.launch import site_file
from nemo_bielik.launch.check import CheckConfig, InitConfig, check_sites, write_template
from nemo_bielik.launch.site_file import load_sites


def test_the_template_is_valid_as_it_is_and_with_every_line_of_it_in_force(tmp_path, capsys):
    path = tmp_path / "new" / "site.toml"
    write_template(InitConfig(output=path))
    assert "then run `bielik launch check`" in capsys.readouterr().out
    assert list(load_sites(path)) == ["local"]
    text = re.sub(r"(?m)^# ?((\[|\w+ = ).*)$", r"\1", path.read_text(encoding="utf-8"))
    text = text.replace("…", "x")
    path.write_text(text, encoding="utf-8")
    found = load_sites(path)
    assert list(found) == ["local", "cluster", "lepton", "docker"]
    assert found["cluster"].slots(16) == (2, 8)


def test_a_file_that_exists_is_left_alone(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text("mine")
    with pytest.raises(StorageError, match="exists; edit it"):
        write_template(InitConfig(output=path))
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("/proc/x/site.toml", "cannot be written"),
        ("taken/site.toml", "taken is not a directory"),
        ("taken/x/site.toml", "cannot be written"),
    ],
)
def test_a_place_that_cannot_be_written_is_told(tmp_path, monkeypatch, place, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    with pytest.raises(StorageError, match=f"^{place}: .*{reason}"):
        write_template(InitConfig(output=Path(place)))


def test_what_is_missing_is_said_and_is_the_exit_status(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(site_file, "USER_FILE", tmp_path / "none.toml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bielik_site.toml").write_text(
        f"[local]\nkind='local'\njob_directory='{tmp_path}'\n"
        f"[broken]\nkind='local'\njob_directory='{tmp_path}/bielik_site.toml/x'\n"
        "python='/no/such/python'\n"
    )
    (tmp_path / "profiled.toml").write_text("[nsys]\nkind='local'\nprofile=true\n")
    monkeypatch.setenv("PATH", str(tmp_path))  # no nsys here
    assert check_sites(CheckConfig(name="nsys", site=tmp_path / "profiled.toml")) == 1
    assert re.search(r"LACKS +nsys: nsys", capsys.readouterr().out)
    assert check_sites(CheckConfig(name="local")) == 0
    assert "LACKS" not in capsys.readouterr().out
    assert check_sites(CheckConfig()) == 1
    lacks = [line for line in capsys.readouterr().out.splitlines() if "LACKS" in line]
    assert len(lacks) == 2
    assert "/no/such/python" in lacks[1]


def test_an_executor_of_nemo_run_that_cannot_be_used_is_lacking(tmp_path, monkeypatch, capsys):
    path = tmp_path / "site.toml"
    path.write_text(
        "[dgx]\nkind='nemo_run'\nexecutor='DGXCloudExecutor'\n"
        "[dgx.secrets]\nclient_secret='BIELIK_TEST_SECRET'\n"
    )
    assert check_sites(CheckConfig(name="dgx", site=path)) == 1
    assert "BIELIK_TEST_SECRET is not set; export it" in capsys.readouterr().out
    monkeypatch.setenv("BIELIK_TEST_SECRET", "hunter2")
    assert check_sites(CheckConfig(name="dgx", site=path)) == 1  # it has no settings at all
    said = capsys.readouterr().out
    assert "DGXCloudExecutor cannot be used here" in said and "hunter2" not in said
