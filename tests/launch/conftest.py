"""The launchers' fixtures; NeMo-Run is imported once, by the tests that need it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "megatron"))
sys.path.insert(0, str(Path(__file__).parent))

from engine_room import student, teacher, tokens
from slurm_cluster import cluster

__all__ = ["cluster", "student", "teacher", "tokens"]


@pytest.fixture(autouse=True)
def no_site_of_the_users_own(monkeypatch, tmp_path):
    """Tests never read the user's site file, nor write into the user's NeMo-Run home."""
    monkeypatch.setattr("nemo_bielik.launch.site.USER_FILE", tmp_path / "no-site.toml")
    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path / "nemo_run"))
