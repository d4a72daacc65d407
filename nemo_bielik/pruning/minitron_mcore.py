"""Collect Minitron's activation statistics and Block Influence from hooks on a Megatron model.

Method: Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation"
(2024), the report's equations 8 and 9, and Men et al., "ShortGPT" (2024), equation 5.

Shapes: s positions, b samples, h hidden, f ffn, d head_dim; Megatron keeps activations as
[s, b, ·]. Every rank fills the part it computed of full-size float64 sums; one all-reduce over the
world then gives every rank the same table.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.utils import unwrap_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifacts import SCORES_NAME, ScoreTable
from nemo_bielik.files import sibling
from nemo_bielik.manifest import Manifest
from nemo_bielik.megatron.batches import next_batch, packed_dataset, require_packable
from nemo_bielik.megatron.model import inference_model, on_rank_zero, quiet
from nemo_bielik.progress import progress
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.stages import stage_output


def run_scoring(config: ScoreConfig, arch: ModelArch, fingerprint: str, manifest: Manifest) -> None:
    """Run one forward pass over the calibration text and publish the table."""
    started = time.monotonic()
    require_packable(config.micro_batch_size, config.parallel.pipeline, per_sample=True)
    work = sibling(config.output, "work")
    work.mkdir(parents=True, exist_ok=True)
    rank = os.environ.get("RANK", "0")
    with (
        quiet(work / f"engine.rank{rank}.log"),
        inference_model(
            config.model, config.parallel, config.sequence_length, config.precision
        ) as (_, model),
    ):
        sums = ActivationSums(arch, config.parallel.sequence)
        with sums.attached(unwrap_model(model)[0]):
            _forward_all(config, model, work / "index", arch.vocab_size)
        table = sums.table(config.samples, config.samples * config.sequence_length, fingerprint)
        on_rank_zero(lambda: _publish(config, manifest, table, started))
    if rank == "0":
        shutil.rmtree(work)


def _forward_all(config: ScoreConfig, model: list[nn.Module], index: Path, vocab_size: int) -> None:
    dataset = packed_dataset(
        config.data, config.samples, config.sequence_length, config.seed, vocab_size, index
    )
    first = parallel_state.get_data_parallel_rank()
    share = Subset(dataset, range(first, config.samples, config.parallel.data))
    loader = progress(
        DataLoader(share, batch_size=config.micro_batch_size),
        desc=config.output.name,
        unit="batch",
        show=dist.get_rank() == 0,
    )

    def forward_step(data: Iterator[Any], chunk: nn.Module) -> tuple[Tensor, Callable[..., Any]]:
        output = chunk(**next_batch(data).model_inputs())
        return output, lambda logits: (logits.new_zeros(()), {})

    with torch.inference_mode():
        get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter(loader),
            model=model,
            num_microbatches=len(loader),
            seq_length=config.sequence_length,
            micro_batch_size=config.micro_batch_size,
            forward_only=True,
        )


def _publish(config: ScoreConfig, manifest: Manifest, table: ScoreTable, started: float) -> None:
    results: dict[str, Any] = {
        "samples": table.samples,
        "tokens": table.tokens,
        "block_influence": table.block_influence().tolist(),
    }
    with stage_output(config.output, manifest, results, started=started) as scratch:
        table.save(scratch / SCORES_NAME)


class ActivationSums:
    """The sums of a `ScoreTable`, filled by forward hooks on this rank's layers."""

    def __init__(self, arch: ModelArch, sequence_parallel: bool) -> None:
        layers = arch.num_layers
        self.arch, self.sequence_parallel = arch, sequence_parallel
        self.tensor_rank = parallel_state.get_tensor_model_parallel_rank()
        self.tensor_group = parallel_state.get_tensor_model_parallel_group()
        self.hidden = torch.zeros(2 * layers, arch.hidden_size, dtype=torch.float64)
        self.ffn = torch.zeros(layers, arch.ffn_hidden_size, dtype=torch.float64)
        self.heads = torch.zeros(layers, arch.num_attention_heads, dtype=torch.float64)
        self.cosine = torch.zeros(layers, dtype=torch.float64)

    def attached(self, model: Any) -> "_Hooks":
        """Return a context in which every forward pass of `model` adds to the sums."""
        hooks = []
        for layer in model.decoder.layers:
            index = layer.layer_number - 1
            attention, mlp = layer.self_attention, layer.mlp
            hooks += [
                _on_norm(layer.input_layernorm, attention.linear_qkv, self._add_hidden(2 * index)),
                _on_norm(layer.pre_mlp_layernorm, mlp.linear_fc1, self._add_hidden(2 * index + 1)),
                _on_input(mlp.linear_fc2, self._add_ffn(index)),
                _on_input(attention.linear_proj, self._add_heads(index)),
                layer.register_forward_hook(self._add_cosine(index), with_kwargs=True),
            ]
        return _Hooks(hooks)

    def table(self, samples: int, tokens: int, model: str) -> ScoreTable:
        """Add the sums of all ranks and return them as one value."""
        arrays = {}
        for name in ("hidden", "ffn", "heads", "cosine"):
            total = getattr(self, name)
            dist.all_reduce(total)
            arrays[name] = total.cpu().numpy().astype(np.float64)
        return ScoreTable(arch=self.arch, samples=samples, tokens=tokens, model=model, **arrays)

    def _add_hidden(self, row: int) -> Callable[[Tensor], None]:
        def add(activations: Tensor) -> None:  # [s, b, h], or [s / ranks, b, h]
            sums = activations.abs().sum(dim=0, dtype=torch.float32)
            length = activations.size(0)
            if self.sequence_parallel:
                dist.all_reduce(sums, group=self.tensor_group)
                length *= dist.get_world_size(self.tensor_group)
            if self.tensor_rank == 0:  # the others hold the same
                self.hidden[row] += (sums / length).double().square().sum(dim=0).to(self.hidden)

        return add

    def _add_ffn(self, layer: int) -> Callable[[Tensor], None]:
        def add(activations: Tensor) -> None:  # [s, b, f / ranks]
            squares = _squared_means(activations)
            start = self.tensor_rank * squares.numel()
            self.ffn[layer, start : start + squares.numel()] += squares.to(self.ffn)

        return add

    def _add_heads(self, layer: int) -> Callable[[Tensor], None]:
        def add(activations: Tensor) -> None:  # [s, b, heads · d / ranks]
            squares = _squared_means(activations).view(-1, self.arch.head_dim).sum(dim=1)
            start = self.tensor_rank * squares.numel()
            self.heads[layer, start : start + squares.numel()] += squares.to(self.heads)

        return add

    def _add_cosine(self, layer: int) -> Callable[..., None]:
        def add(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            entering = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            leaving = output[0] if isinstance(output, tuple) else output
            if self.tensor_rank == 0 or self.sequence_parallel:
                cosine = torch.nn.functional.cosine_similarity(
                    entering.float(), leaving.float(), dim=-1
                )
                self.cosine[layer] += cosine.double().sum().to(self.cosine)

        return add


class _Hooks:
    """Registered hooks, removed on leaving."""

    def __init__(self, handles: list[Any]) -> None:
        self.handles = handles

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: Any) -> None:
        for handle in self.handles:
            handle.remove()


def _squared_means(activations: Tensor) -> Tensor:
    """Return Σ_b (mean_s |a|)² of [s, b, k] as float64 [k]."""
    return activations.abs().mean(dim=0, dtype=torch.float32).double().square().sum(dim=0)


def _on_input(module: nn.Module, add: Callable[[Tensor], None]) -> Any:
    return module.register_forward_pre_hook(lambda _, args: add(args[0]))


def _on_norm(norm: nn.Module, fused_linear: Any, add: Callable[[Tensor], None]) -> Any:
    """Hook a norm's output, also where Transformer Engine fuses it into the linear after it."""
    if not isinstance(norm, IdentityOp):
        return norm.register_forward_hook(lambda module, args, output: add(output))
    weight, eps = fused_linear.layer_norm_weight, fused_linear.eps

    def add_normalised(_: nn.Module, args: Any) -> None:
        add(torch.nn.functional.rms_norm(args[0], weight.shape, weight, eps))

    return fused_linear.register_forward_pre_hook(add_normalised)
