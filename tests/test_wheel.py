"""The wheel as a cluster gets it: built offline, installed with --no-deps beside light packages.

It runs in a Python that sees nothing else: no engine, no checkout.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from nemo_bielik.recipes.catalog import RECIPES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nemo_bielik"
#: What a run needs besides code.
DATA = ("launch/template.toml", "paper/tables.json", "report/base.html", "report/style.css")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: setuptools leaves its scraps beside the sources."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("no setuptools here, which pyproject.toml builds the wheel with")
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("nemo_bielik", "recipes", "launch"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("nemo_bielik-*.whl")
    return found


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """A directory with the light dependencies, and what those need, out of this environment."""
    folder, waiting, seen = tmp_path_factory.mktemp("light"), ["nemo-bielik"], set()
    while waiting:
        distribution = importlib.metadata.distribution(waiting.pop())
        wanted = map(Requirement, distribution.requires or [])
        names = {r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})}
        waiting += names - seen
        seen |= names
        if distribution.name == "nemo-bielik":
            continue
        for name in {path.parts[0] for path in distribution.files or [] if path.parts[0] != ".."}:
            if not (folder / name).exists() and name != "__pycache__":
                (folder / name).symlink_to(distribution.locate_file(name))
    assert not (folder / "torch").exists()
    return folder


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel installed by whatever installer is here, with nothing that it depends on."""
    folder = tmp_path_factory.mktemp("installed")
    uv = shutil.which("uv") or shutil.which(ROOT / ".uv" / "bin" / "uv")
    if uv:
        command = [uv, "pip", "install", "--offline", "--python", sys.executable]
    elif importlib.util.find_spec("pip"):
        command = [sys.executable, "-m", "pip", "install", "--no-index"]
    else:
        command = [getattr(sys, "_base_executable", sys.executable), "-m", "pip", "install"]
    words = ["--quiet", "--no-deps", "--target", str(folder), str(wheel)]
    done = subprocess.run([*command, *words], capture_output=True, text=True)
    if done.returncode and "No module named pip" in done.stderr:
        pytest.skip("neither uv nor pip is here to install the wheel with")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def bielik(installed, light, tmp_path):
    """Return a function that runs the installed command; -S hides this environment."""
    places = {"PYTHONPATH": f"{installed}{os.pathsep}{light}", "HOME": str(tmp_path)}

    def run(*words):
        command = [sys.executable, "-S", "-m", "nemo_bielik", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=places, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    packed = {name.removeprefix("nemo_bielik/") for name in names if ".dist-info/" not in name}
    sources = {
        os.path.relpath(os.path.join(folder, name), PACKAGE)
        for folder, _, files in os.walk(PACKAGE, followlinks=True)
        for name in files
        if "__pycache__" not in folder
    }
    assert packed == sources
    assert set(DATA) <= packed


def test_the_wheel_registers_the_command_and_nemo_runs_entry_points(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        text = archive.read(name).decode()
    assert re.search(r"\[console_scripts\]\s+bielik = nemo_bielik.cli:main", text)
    assert "[nemo_run.cli]" in text
    assert "llm = nemo_bielik.nemo2.registration" in text


def test_it_runs_without_the_engine_from_where_it_is_installed(bielik, tmp_path):
    table = bielik("recipes").splitlines()
    assert len(table) == 1 + len(RECIPES)
    bielik("launch", "init", "--output", "site.toml")
    template = (ROOT / "launch" / "template.toml").read_text("utf-8")
    assert (tmp_path / "site.toml").read_text("utf-8") == template
    assert "bielik-11b-v3" in bielik("plan")
    bielik("methods")
    assert bielik("report", "--paper")
    (tmp_path / "text.txt").write_text("Ala ma kota.\n\nKot ma Alę.\n", encoding="utf-8")
    bielik("tokenizer", "--inputs=text.txt", "--output=tokenizer", "--vocab-size=262")
    bielik("tokenize", "--inputs=text.txt", "--tokenizer=tokenizer", "--output=tokens")
    assert (tmp_path / "tokens" / "tokens.bin").stat().st_size > 0
