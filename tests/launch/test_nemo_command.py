"""``nemo bielik …``: NeMo-Run finds the stages by the entry point and hands their words on."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_stages_are_commands_of_nemo(tmp_path):
    """The entry point is read from pyproject.toml; its commands are ours, with our errors."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    target = project["entry-points"]["nemo_run.cli"]["bielik"]
    described = tmp_path / "bielik_under_test-1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: bielik-under-test\n")
    (described / "entry_points.txt").write_text(f"[nemo_run.cli]\nbielik = {target}\n")
    whole = ["distill", "--factory", "minitron_7b", "optim.max_lr=5e-5", "--dry-run"]
    wrong = ["plan", "--dry-run", "--factroy=x"]
    code = (
        "import contextlib, sys; from nemo_run.cli.api import create_cli\n"
        f"for words in ({whole!r}, {wrong!r}):\n"
        "    sys.argv = ['nemo', 'bielik', *words]\n"
        "    with contextlib.suppress(*[SystemExit] * (words[0] == 'distill')):\n"
        "        create_cli()()"
    )
    search = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith("# bielik distill: dry run, nothing is done")
    assert "  max_lr: 5e-05" in done.stdout
    assert "error: bielik plan: unknown option '--factroy'" in done.stderr
