"""On a GPU: what `bielik plan` expects a distillation to take, and what torch takes for it."""

import re
import subprocess
import sys

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
#: Some 220 million weights in the student, so that what counts is not what torch rounds up.
SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 32_000,
    "max_position_embeddings": 1024,
}
WORDS = ["sequence_length=1024", "global_batch_size=4", "micro_batch_size=2", "precision=bf16"]


@pytest.mark.parametrize("recompute", ["false", "true"])
def test_a_distillation_takes_what_was_planned(make_model, tokens, tmp_path, recompute):
    """Preflight prints both. Torch keeps blocks of what it has freed: a third more at most."""
    student = make_model(num_hidden_layers=10, **SHAPE)
    teacher = make_model(seed=1, num_hidden_layers=12, **SHAPE)
    paths = [f"model={student}", f"teacher={teacher}", f"train_data={tokens}"]
    words = [*paths, f"output={tmp_path / 'out'}", *WORDS, f"recompute={recompute}"]
    command = [sys.executable, "-m", "nemo_bielik", "launch", "preflight", "distill", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"at most ([\d.]+) GB; planned: ([\d.]+) GB", done.stdout)
    assert found, done.stdout + done.stderr
    taken, planned = map(float, found.groups())
    assert 0.67 < taken / planned < 1.33
