"""The launchers' fixtures; NeMo-Run is imported once, by the tests that need it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "megatron"))
sys.path.insert(0, str(Path(__file__).parent))

from engine_room import TEACHER, lanes, student, teacher, tokens
from slurm_cluster import cluster

from nemo_bielik.checkpoint import copy_tokenizer

__all__ = ["cluster", "lanes", "student", "teacher", "tokens"]


@pytest.fixture(autouse=True)
def no_site_of_the_users_own(monkeypatch, tmp_path):
    """Tests never read the user's site file, nor write into the user's NeMo-Run home."""
    monkeypatch.setattr("nemo_bielik.launch.site_file.USER_FILE", tmp_path / "no-site.toml")
    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path / "nemo_run"))


@pytest.fixture
def chain_words(make_model, tokenizer_directory, tmp_path):
    """Words for ``bielik pipeline`` on a tiny model of the user's own: two steps of two ranks."""
    model = make_model(seed=1, **TEACHER)
    copy_tokenizer(tokenizer_directory, model)
    text = tmp_path / "text.txt"
    documents = [[f"słowo{(n * step) % 37}" for step in range(1, 30)] for n in range(1, 200)]
    text.write_text("\n\n".join(map(" ".join, documents)), encoding="utf-8")
    sizes = {"sequence_length": 32, "global_batch_size": 4, "micro_batch_size": 2, "iters": 2}
    sizes |= {"eval_interval": 2, "eval_iters": 1, "optim.warmup_iters": 1, "parallel.data": 2}
    return [
        f"--output={tmp_path / 'run'}",
        f"--model={model}",
        f"--texts={text}",
        "--score-samples=8",
        "score_parallel.data=1",
        "target.num_layers=4",
        "target.ffn_hidden_size=24",
        *(f"recovery.{name}={value}" for name, value in sizes.items()),
    ]
