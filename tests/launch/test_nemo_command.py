"""``nemo bielik …``: NeMo-Run finds the stages by the entry point and hands their words on."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_stages_are_commands_of_nemo(tmp_path):
    """The entry point is read from pyproject.toml, so an older installation does not matter."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (name, target) = project["entry-points"]["nemo_run.cli"].popitem()
    described = tmp_path / "bielik_under_test-1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: bielik-under-test\n")
    (described / "entry_points.txt").write_text(f"[nemo_run.cli]\n{name} = {target}\n")
    words = ["plan", "--dry-run", "--factroy=x"]
    code = (
        "import sys; from nemo_run.cli.api import create_cli\n"
        f"sys.argv = ['nemo', 'bielik', *{words!r}]\ncreate_cli()()"
    )
    search = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "error: bielik plan: unknown option '--factroy'" in done.stderr
