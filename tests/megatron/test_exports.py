"""A checkpoint becomes a model directory, and its run knows nothing of it."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nemo_bielik.errors import CheckpointError
from nemo_bielik.export import ExportConfig
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.stages import work_directory
from nemo_bielik.training import LoraConfig, OptimConfig, TrainConfig

EXPORT = "nemo_bielik.export:export_checkpoint"
#: Megatron's names of some weights; those of layers are stacked.
NAMES = {
    "embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "output_layer.weight": "lm_head.weight",
    "decoder.final_layernorm.weight": "model.norm.weight",
    "decoder.layers.self_attention.linear_proj.weight": "model.layers.{}.self_attn.o_proj.weight",
    "decoder.layers.mlp.linear_fc2.weight": "model.layers.{}.mlp.down_proj.weight",
}


def stopped_run(call, student: Path, tokens: Path, output: Path, **changes) -> TrainConfig:
    """A run that ended abruptly after the checkpoints of steps 2 and 4."""
    values = {
        "model": student,
        "train_data": tokens,
        "output": output,
        "iters": 6,
        "sequence_length": 32,
        "global_batch_size": 8,
        "micro_batch_size": 8,
        "save_interval": 2,
        "async_save": False,
        "optim": OptimConfig(max_lr=1e-2, min_lr=1e-3, warmup_iters=1),
    }
    config = TrainConfig(**values | changes)
    call("stopped_cases:train_until", config, 5)
    return config


@pytest.fixture(scope="module")
def run(call, student, tokens, tmp_path_factory):
    return stopped_run(call, student, tokens, tmp_path_factory.mktemp("run") / "output")


def content(directory: Path) -> dict[str, tuple[int, int]]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


@pytest.mark.parametrize(
    ("step", "parallel"),
    [(2, ParallelConfig()), (4, ParallelConfig(tensor=2)), (0, ParallelConfig(pipeline=2))],
    ids=["step 2", "step 4, tensor=2", "the newest, pipeline=2"],
)
def test_a_checkpoint_is_exported(call, lanes, run, tmp_path, step, parallel):
    work = work_directory(run.output)
    before = content(work)
    config = ExportConfig(run=run.output, output=tmp_path / "model", step=step, parallel=parallel)
    lanes.run(EXPORT, config)
    assert content(work) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    checkpoint = work / "checkpoints" / f"iter_{step or 4:07d}"
    weights = load_file(config.output / "model.safetensors")
    for name, tensor in call("exports_cases:read_tensors", checkpoint, list(NAMES))[0].items():
        layered = "{}" in NAMES[name]
        for number, part in enumerate(tensor if layered else [tensor]):
            torch.testing.assert_close(weights[NAMES[name].format(number)], part, rtol=0, atol=0)
    assert Manifest.load(config.output).results["step"] == (step or 4)


def test_adapters_are_exported_merged(call, lanes, student, tokens, tmp_path):
    """With B = 0 at first, the merged weights of a run that has learned differ from the source's
    in what the adapters cover, and in nothing else."""
    lora = LoraConfig(rank=2)
    run = stopped_run(call, student, tokens, tmp_path / "output", lora=lora)
    lanes.run(EXPORT, ExportConfig(run=run.output, output=tmp_path / "model", step=4))
    found, source = (
        load_file(tmp_path / "model/model.safetensors"),
        load_file(student / "model.safetensors"),
    )
    changed = {name for name in source if not torch.equal(found[name], source[name])}
    assert changed == {name for name in source if "_proj" in name}


def test_what_cannot_be_exported_is_one_line(lanes, run, tmp_path):
    torn = tmp_path / "torn"
    shutil.copytree(work_directory(run.output), work_directory(torn))
    (work_directory(torn) / "checkpoints/iter_0000002/common.pt").write_bytes(b"")
    cases = {
        "has no unfinished work": ExportConfig(run=tmp_path / "none", output=tmp_path / "model"),
        "there are those of steps: 2, 4": ExportConfig(
            run=run.output, output=tmp_path / "model", step=3
        ),
        r"is damaged \(common.pt has 0 of": ExportConfig(
            run=torn, output=tmp_path / "model", step=2
        ),
    }
    for pattern, config in cases.items():
        with pytest.raises(CheckpointError, match=pattern) as caught:
            lanes.run(EXPORT, config)
        assert "\n" not in str(caught.value)
        assert not config.output.exists()
