"""A Hugging Face directory as a Megatron-Core GPT model, and back, through Megatron-Bridge."""

import contextlib
import gc
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.bridge import AutoBridge
from megatron.bridge.models.gpt_provider import (
    GPTModelProvider,
    default_layer_spec,
    local_layer_spec,
)
from megatron.bridge.training.initialize import destroy_global_state
from megatron.core import parallel_state
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.transformer import ModuleSpec
from megatron.core.transformer.module import MegatronModule
from megatron.core.utils import unwrap_model

from nemo_bielik.checkpoint import Checkpoint, CheckpointWriter, copy_tokenizer
from nemo_bielik.errors import CheckpointError, ConfigError
from nemo_bielik.manifest import Manifest
from nemo_bielik.megatron.context_parallel import GatheringAttention
from nemo_bielik.megatron.cpu import cpu_runtime, on_cpu
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.planner.stages import layers_of_stages
from nemo_bielik.stages import hold_work
from nemo_bielik.training import Precision

#: Transformer Engine brings the fused layers; without it the same model is built of plain ones.
HAS_TRANSFORMER_ENGINE = importlib.util.find_spec("transformer_engine") is not None
_LAYERS = default_layer_spec if HAS_TRANSFORMER_ENGINE else local_layer_spec


def open_bridge(directory: Path) -> AutoBridge:
    """Return the Bridge of a model directory; no remote code, no download."""
    return AutoBridge.from_hf_pretrained(str(directory), local_files_only=True)


def model_provider(
    bridge: AutoBridge,
    parallel: ParallelConfig,
    precision: Precision,
    sequence_length: int,
) -> GPTModelProvider:
    """Return the Megatron configuration of a model, which builds it with its weights loaded."""
    if parallel.sequence and not HAS_TRANSFORMER_ENGINE:
        raise ConfigError(
            "parallel.sequence needs Transformer Engine, whose norms know split sequences; it is "
            "not installed here, so leave parallel.sequence off"
        )
    provider = bridge.to_megatron_provider(load_weights=True)
    provider.register_pre_wrap_hook(_require_finite)
    # Bridge skips initialisation when weights are loaded; with it Megatron-Core 0.16 skips marking
    # the tensor-parallel parameters, and the gradient norm then leaves out all ranks but the first
    provider.perform_initialization = True
    provider.tensor_model_parallel_size = parallel.tensor
    provider.pipeline_model_parallel_size = parallel.pipeline
    provider.context_parallel_size = parallel.context
    provider.sequence_parallel = parallel.sequence
    provider.pipeline_model_parallel_layout = pipeline_layout(
        provider.num_layers, parallel.pipeline
    )
    provider.seq_length = sequence_length
    # the losses sum over tokens; Megatron then divides once by their number over all ranks
    provider.calculate_per_token_loss = True
    # `check_layout` keeps sequences within the window, where it hides nothing; Megatron's own
    # attention would put the window's mask in the place of ours and let documents see each other
    provider.window_size = None
    # padding would change the distribution that distillation compares
    provider.should_pad_vocab = False
    _set_precision(provider, precision)
    _set_layers(provider)
    return provider


def recompute_layers(provider: GPTModelProvider) -> None:
    """Have every layer keep its input alone, and compute again what its backward pass needs."""
    provider.recompute_granularity = "full"
    provider.recompute_method = "uniform"
    provider.recompute_num_layers = 1


def pipeline_layout(num_layers: int, stages: int) -> list[list[str]] | None:
    """Deal layers over stages as the planner does; None where Megatron's own split is the same."""
    if num_layers % stages == 0:
        return None
    layout = [["decoder"] * count for count in layers_of_stages(num_layers, stages)]
    layout[0].insert(0, "embedding")
    layout[-1].append("loss")
    return layout


def _set_precision(provider: GPTModelProvider, precision: Precision) -> None:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}[precision]
    provider.bf16, provider.fp16 = precision == "bf16", False
    provider.params_dtype = provider.pipeline_dtype = provider.autocast_dtype = dtype


def _set_layers(provider: GPTModelProvider) -> None:
    provider.transformer_layer_spec = (
        _LAYERS if provider.context_parallel_size == 1 else split_sequence_layers
    )
    if HAS_TRANSFORMER_ENGINE:
        return
    for fusion in (
        "gradient_accumulation_fusion",
        "masked_softmax_fusion",
        "bias_activation_fusion",
        "bias_dropout_fusion",
        "apply_rope_fusion",
        "persist_layer_norm",
        "cross_entropy_loss_fusion",
    ):
        setattr(provider, fusion, False)


def split_sequence_layers(config: GPTModelProvider) -> ModuleSpec:
    """Return the layers of a model whose ranks share each sequence; Bridge calls it by its name."""
    layers = _LAYERS(config)
    layers.submodules.self_attention.submodules.core_attention = GatheringAttention
    return layers


def _require_finite(model: list[MegatronModule]) -> list[MegatronModule]:
    for chunk in model:
        for name, parameter in chunk.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise CheckpointError(
                    f"{name}: holds NaN or infinite weights; the source is damaged or its training "
                    "diverged"
                )
    return model


def export_model(
    bridge: AutoBridge, model: list[MegatronModule], source: Path, output: Path
) -> None:
    """Write a trained model as a Hugging Face directory; every rank calls, rank 0 writes.

    Configuration and tokenizer come from `source`, the directory that training started from; the
    result is opened again, so a tensor that no conversion row matched is an error.

    Args:
        output: an existing empty directory.
    """
    writes = dist.get_rank() == 0
    config = Checkpoint.open(source).config
    dtype = next(unwrap_model(model)[0].parameters()).dtype
    writer = CheckpointWriter(output, {**config, "torch_dtype": str(dtype).removeprefix("torch.")})
    for name, tensor in bridge.export_hf_weights(model, cpu=True, show_progress=False):
        if writes:
            writer.add(name, tensor.detach())
    if writes:
        writer.finish()
        copy_tokenizer(source, output)
        Checkpoint.open(output)
    dist.barrier()


@contextlib.contextmanager
def distributed_session(seed: int | None = None) -> Iterator[None]:
    """Join the process group that the launcher describes, or be a world of one; leave it after.

    Everything Megatron happens inside: on a machine without CUDA the CPU runtime is on.
    """
    with cpu_runtime():
        backend = "gloo" if on_cpu() else "nccl"
        if not on_cpu():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if "WORLD_SIZE" in os.environ:
            dist.init_process_group(backend)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        try:
            yield
        finally:
            if parallel_state.model_parallel_is_initialized():
                destroy_global_state()
            dist.destroy_process_group()
            # the groups' threads end with the last module that knew them
            RotaryEmbedding.forward.cache_clear()
            gc.collect()


@contextlib.contextmanager
def inference_model(
    directory: Path,
    parallel: ParallelConfig,
    sequence_length: int,
    precision: Precision = "fp32",
) -> Iterator[Any]:
    """Yield the Megatron model of a directory, in evaluation mode, within a session of its own."""
    with distributed_session():
        yield load_for_inference(directory, parallel, sequence_length, precision)


def load_for_inference(
    directory: Path, parallel: ParallelConfig, sequence_length: int, precision: Precision
) -> tuple[AutoBridge, list[MegatronModule]]:
    """Return the Megatron model of a directory, in evaluation mode, within a session."""
    bridge = open_bridge(directory)
    provider = model_provider(bridge, parallel, precision, sequence_length)
    # where it is on, Transformer Engine writes gradients to buffers that only training has
    provider.gradient_accumulation_fusion = False
    provider.finalize()
    provider.initialize_model_parallel(seed=1)
    model = provider.provide_distributed_model(wrap_with_ddp=False)
    for chunk in model:
        chunk.eval()
    return bridge, model


def on_rank_zero(action: Callable[[], Any]) -> Any:
    """Run `action` on rank 0 and give every rank its value, or its error."""
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = action()
        except Exception as error:  # raised below, on every rank
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


@contextlib.contextmanager
def work_of_all_ranks(output: Path, manifest: Manifest) -> Iterator[Path | None]:
    """Yield the unfinished work of `output`, which rank 0 holds for all; None if it is done.

    Every rank calls it. Raises `StorageError` as `hold_work` does, on every rank.
    """
    with contextlib.ExitStack() as held:
        yield on_rank_zero(lambda: held.enter_context(hold_work(output, manifest)))


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Send Megatron's chatter to a log file; the terminal keeps the progress bar."""
    handlers = logging.root.handlers[:]
    with (
        log.open("a", encoding="utf-8") as stream,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
    ):
        # with none, the first record would make one that outlives the file
        logging.root.handlers[:] = [logging.StreamHandler(stream)]
        try:
            yield
        finally:
            logging.root.handlers[:] = handlers
