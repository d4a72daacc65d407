"""Functions that run in the process that knows NeMo 2; they return plain values."""

import dataclasses
import io
import os
import shutil
import socket
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import fiddle as fdl  # noqa: E402
import nemo_run as run  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

import nemo_bielik.megatron  # noqa: E402, F401  (sets the environment of a machine without CUDA)

# NeMo's loggers write for good to what stands here, and one module wants a real file
NOWHERE = Path(os.devnull).open("w")  # noqa: SIM115
with redirect_stdout(NOWHERE), redirect_stderr(NOWHERE):
    from megatron.core.tensor_parallel import ColumnParallelLinear
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.core.transformer.identity_op import IdentityOp
    from nemo.collections import llm
    from nemo.collections.llm.gpt.model.base import local_layer_spec
    from nemo.collections.llm.modelopt.model_utils import (
        _set_gpt_mamba_modelopt_spec as set_modelopt_spec,
    )
    from nemo.lightning import MegatronMixedPrecision, teardown

    from nemo_bielik.megatron.cpu import cpu_runtime
    from nemo_bielik.megatron.upstream_fixes import install_checkpoint_queue
    from nemo_bielik.nemo2 import config as configs
    from nemo_bielik.nemo2 import factories
    from nemo_bielik.nemo2.model import BielikModel, HFBielikExporter, HFBielikImporter
    from nemo_bielik.nemo2.settings import Nemo2Prune
    from nemo_bielik.training import OptimConfig, TrainSettings


class NormThenLinear(ColumnParallelLinear):
    """Stands in for Transformer Engine's fused layer: its parameter names, plain arithmetic."""

    def __init__(self, input_size: int, output_size: int, *, config: Any, **kwargs: Any) -> None:
        super().__init__(input_size, output_size, config=config, **kwargs)
        self.eps = config.layernorm_epsilon
        self.layer_norm_weight = torch.nn.Parameter(torch.full((input_size,), 7.0))

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.eps)
        return super().forward(hidden * scale * self.layer_norm_weight, *args, **kwargs)


def fused_layer_spec(config: Any) -> Any:
    """Layers laid out as with Transformer Engine: no norm modules, norms inside the linears."""
    spec = local_layer_spec(config)
    layer = spec.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = IdentityOp
    layer.self_attention.submodules.linear_qkv = NormThenLinear
    layer.mlp.submodules.linear_fc1 = NormThenLinear
    layer.sharded_state_dict_keys_map = {}
    return spec


class FusedImporter(HFBielikImporter):
    """Imports into layers with fused norms."""

    @property
    def config(self) -> configs.BielikConfig:
        return dataclasses.replace(super().config, transformer_layer_spec=fused_layer_spec)


class QueryKeyNormImporter(HFBielikImporter):
    """Imports into a model with norms that no Bielik has."""

    @property
    def config(self) -> configs.BielikConfig:
        return dataclasses.replace(super().config, qk_layernorm=True)


def ready() -> None:
    """Nothing to do: all is imported."""


def there_and_back(source: Path, nemo: Path, back: Path, tokens: np.ndarray) -> dict[str, Any]:
    """Import by NeMo's own function, run the model, export by NeMo's own function."""
    with redirect_stdout(io.StringIO()):
        llm.import_ckpt(BielikModel(), f"hf://{source}", nemo)
        found = loaded(nemo, tokens)
        llm.export_ckpt(nemo, "hf", back)
    return found


def fused_there_and_back(
    source: Path, nemo: Path, back: Path, plain: Path, tokens: np.ndarray
) -> dict[str, Any]:
    """As `there_and_back` with fused norms; also loads what plain layers saved (`plain`)."""
    with redirect_stdout(io.StringIO()):
        FusedImporter(source)(nemo)
        found = loaded(nemo, tokens)
        HFBielikExporter(nemo)(back)
        mixed = nemo.with_name("mixed")
        shutil.copytree(nemo / "context", mixed / "context")
        shutil.copytree(plain / "weights", mixed / "weights")
        found["of plain checkpoint"] = loaded(mixed, tokens)["logits"]
    return found


def loaded(nemo: Path, tokens: np.ndarray) -> dict[str, Any]:
    """Return what a NeMo 2 checkpoint holds, read as NeMo reads it."""
    model, trainer = HFBielikExporter(nemo).nemo_load(nemo)
    ids = torch.from_numpy(tokens)
    positions = torch.arange(ids.size(1)).repeat(len(ids), 1)
    try:
        with cpu_runtime(), torch.no_grad():
            # attention asks for a generator for its dropout, of probability 0
            model_parallel_cuda_manual_seed(
                1, force_reset_rng=True, tp_rank=0, ep_rank=0, etp_rank=0
            )
            logits = model.module.eval()(ids, positions, None)
    finally:
        with cpu_runtime():
            teardown(trainer, model)
    return {
        "logits": logits.numpy(),
        "names": [name for name, _ in model.module.named_parameters()],
        "vocabulary": model.tokenizer and model.tokenizer.tokenizer.get_vocab(),
        "arch": model.config.arch,
    }


def distill(student: Path, teacher: Path, tokens: Path, folder: Path) -> Path:
    """Run our recipe of `llm.distill` on tiny checkpoints; return the distilled directory.

    Changed are paths and sizes, and what needs CUDA: accelerator, 16 bits (their fused softmax is a
    CUDA kernel) and the seed of the dropout's generator, which NeMo sets for CUDA devices alone.
    """
    optim = OptimConfig(max_lr=1e-2, min_lr=1e-3, warmup_iters=2)
    sizes = {"iters": 30, "sequence_length": 16, "global_batch_size": 8, "micro_batch_size": 4}
    settings = TrainSettings(**sizes, eval_interval=30, eval_iters=1, optim=optim)
    recipe = factories.distill(settings, "tiny")
    recipe.student_model_path, recipe.teacher_model_path = str(student), str(teacher)
    recipe.data.paths, recipe.data.num_workers = str(tokens / "tokens"), 0
    recipe.data.persistent_workers = False
    recipe.data.tokenizer.pretrained_model_name = str(teacher / "context" / "tokenizer")
    recipe.log.log_dir = str(folder / "logs")
    recipe.trainer.accelerator, recipe.trainer.devices = "cpu", 1
    recipe.trainer.plugins = run.Config(MegatronMixedPrecision, precision="32")
    recipe.optim.config.bf16 = False
    install_checkpoint_queue()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), cpu_runtime():
        model_parallel_cuda_manual_seed(1, force_reset_rng=True, tp_rank=0, ep_rank=0, etp_rank=0)
        fdl.build(recipe)()
    (made,) = (folder / "logs").rglob("*-last")
    HFBielikExporter(made)(folder / "distilled")
    return folder / "distilled"


def imported(source: Path, nemo: Path) -> Path:
    """Import by NeMo's own function."""
    with redirect_stdout(io.StringIO()):
        llm.import_ckpt(BielikModel(), f"hf://{source}", nemo)
    return nemo


def prune_refusal(source: Path, tokens: Path, folder: Path) -> list[str]:
    """Return what stands in the way of `llm.prune` here: as it is, and past the first obstacle."""
    recipe = factories.prune(Nemo2Prune(target="bielik-minitron-7b", samples=4))
    recipe.nemo_checkpoint, recipe.save_path = str(source), str(folder / "pruned")
    recipe.data.paths = str(tokens / "tokens")
    recipe.data.tokenizer.pretrained_model_name = str(source / "context" / "tokenizer")
    found = []
    for attempt in (fdl.build(recipe), lambda: set_modelopt_spec(configs.BielikConfig11B())):
        try:
            with redirect_stdout(io.StringIO()), cpu_runtime():
                attempt()
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def refusal(source: Path, nemo: Path, importer: str) -> str:
    """Return what an import into an unfit model says."""
    try:
        globals()[importer](source)(nemo)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def arch_of(name: str) -> Any:
    """Return the sizes that a configuration class stands for, and what NeMo makes of them."""
    config = getattr(configs, name)()
    return config.arch, config.window_size, config.make_vocab_size_divisible_by


def nemo_command(metadata: Path, *arguments: str) -> tuple[int, str]:
    """Run ``nemo ARGUMENTS`` with the package metadata in a folder; return status and output."""
    from nemo_run.cli.api import create_cli

    if str(metadata) not in sys.path:
        sys.path.insert(0, str(metadata))
    output, before, connect = io.StringIO(), sys.argv, socket.socket.connect
    sys.argv, socket.socket.connect = ["nemo", *arguments], _refuse  # type: ignore[method-assign]
    try:
        with redirect_stdout(output), redirect_stderr(output):
            create_cli()()
    except SystemExit as stop:
        return int(stop.code or 0), output.getvalue()
    finally:
        sys.argv, socket.socket.connect = before, connect  # type: ignore[method-assign]
    return 0, output.getvalue()


def _refuse(*_: Any) -> None:
    raise AssertionError("a recipe asked the network")


def recipes() -> dict[str, dict[str, str]]:
    """Build every recipe and return it as text."""
    return {
        "prune": {name: str(factories.prune(make())) for name, make in factories.PRUNE.items()},
        "distill": {
            name: str(factories.distill(make(), name)) for name, make in factories.DISTILL.items()
        },
    }
