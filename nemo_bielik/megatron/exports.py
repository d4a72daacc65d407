"""The weights of a training checkpoint as a Hugging Face directory."""

import contextlib
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist
from megatron.bridge.peft.lora import LoRA
from megatron.bridge.training.checkpointing import (
    _generate_model_state_dict,
    apply_peft_adapter_filter_to_state_dict,
    delete_extra_state,
)
from megatron.bridge.training.utils.pg_utils import get_pg_collection
from megatron.core import dist_checkpointing
from megatron.core.transformer.module import MegatronModule
from megatron.core.utils import unwrap_model

from nemo_bielik.errors import CheckpointError
from nemo_bielik.export import ExportConfig
from nemo_bielik.files import link_tree
from nemo_bielik.manifest import Manifest
from nemo_bielik.megatron.checkpoints import damage
from nemo_bielik.megatron.lora import attach
from nemo_bielik.megatron.model import (
    distributed_session,
    export_model,
    model_provider,
    on_rank_zero,
    open_bridge,
    quiet,
)
from nemo_bielik.stages import stage_output
from nemo_bielik.training import LoraConfig


def export_weights(
    checkpoint: Path, run: Manifest, config: ExportConfig, manifest: Manifest, scratch: Path
) -> None:
    """Export the model of `checkpoint`, which `run` describes, as `config.output`; ranks share it.

    Args:
        scratch: where the checkpoint's files get their second names and the engine its log.
    """
    with distributed_session(), contextlib.ExitStack() as stack:
        held = stack.enter_context(_held(checkpoint, scratch))
        reason = damage(held)
        if reason:
            raise CheckpointError(f"{checkpoint}: is damaged ({reason}); choose another step")
        stack.enter_context(quiet(scratch / f"engine.rank{dist.get_rank()}.log"))
        _export(held, run, config, manifest)


@contextlib.contextmanager
def _held(checkpoint: Path, scratch: Path) -> Iterator[Path]:
    """Yield the checkpoint under a name of ours: the run may remove its own meanwhile."""
    held = scratch / checkpoint.name
    on_rank_zero(functools.partial(shutil.rmtree, scratch, ignore_errors=True))
    on_rank_zero(functools.partial(scratch.mkdir, parents=True))
    try:
        on_rank_zero(functools.partial(link_tree, checkpoint, held))
        yield held
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{checkpoint}: was removed by its run meanwhile; choose a newer step"
        ) from error
    finally:
        if dist.get_rank() == 0:
            shutil.rmtree(scratch, ignore_errors=True)


def _export(held: Path, run: Manifest, config: ExportConfig, manifest: Manifest) -> None:
    source, settings = Path(run.config["model"]), run.config
    lora = LoraConfig(**settings["lora"])
    bridge = open_bridge(source)
    provider = model_provider(
        bridge, config.parallel, settings["precision"], settings["sequence_length"]
    )
    provider.gradient_accumulation_fusion = False
    adapters = attach(provider, lora, int(settings["seed"])) if lora.rank else None
    provider.finalize()
    provider.initialize_model_parallel(seed=1)
    model = provider.provide_distributed_model(wrap_with_ddp=False)
    _load(held, model, adapters)
    with contextlib.ExitStack() as stack:
        output = config.output
        if dist.get_rank() == 0:
            output = stack.enter_context(stage_output(output, manifest, {"step": config.step}))
        export_model(bridge, model, source, output)


def _load(held: Path, model: list[MegatronModule], adapters: LoRA | None) -> None:
    """Load a checkpoint's weights; of adapters it holds them alone, the rest is in the model."""
    found = dist_checkpointing.load_content_metadata(str(held))
    chunks = unwrap_model(model)
    wanted = _generate_model_state_dict(
        chunks, {"metadata": found}, pg_collection=get_pg_collection(chunks)
    )
    if adapters:
        wanted = apply_peft_adapter_filter_to_state_dict(wanted, adapters)
    loaded = dist_checkpointing.load(wanted, str(held))
    delete_extra_state(loaded)
    for chunk in chunks:
        chunk.load_state_dict(loaded["model"], strict=adapters is None)
