"""Functions for the lanes: what training really holds on a rank, counted tensor by tensor."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_bielik.parallel import ParallelConfig


def held(model: Path, parallel: ParallelConfig) -> dict[str, int]:
    """Return the bytes that this rank holds of a bf16 model in training, after one step."""
    from megatron.bridge.training.config import DistributedDataParallelConfig, OptimizerConfig
    from megatron.core.optimizer import get_megatron_optimizer

    from nemo_bielik.megatron.model import distributed_session, model_provider, open_bridge
    from nemo_bielik.megatron.upstream_fixes import install_sharded_adam

    install_sharded_adam()
    shards = parallel.data * parallel.context > 1
    with distributed_session():
        provider = model_provider(open_bridge(model), parallel, "bf16", 16)
        provider.finalize()
        provider.initialize_model_parallel(seed=1)
        ddp = DistributedDataParallelConfig(
            grad_reduce_in_fp32=True, use_distributed_optimizer=shards
        )
        chunks = provider.provide_distributed_model(ddp_config=ddp)
        settings = OptimizerConfig(
            optimizer="adam",
            lr=1e-3,
            bf16=True,
            params_dtype=torch.bfloat16,
            use_distributed_optimizer=shards,
        )
        settings.finalize()
        optimizer = get_megatron_optimizer(settings, chunks)
        for chunk in chunks:
            for parameter in chunk.parameters():
                parameter.main_grad.fill_(1e-3)
        optimizer.step()
        return _count(chunks, optimizer)


def _count(chunks: list[Any], optimizer: Any) -> dict[str, int]:
    buffers = [buffer for chunk in chunks for buffer in chunk.buffers]
    return {
        "weights": sum(_bytes(p) for chunk in chunks for p in chunk.parameters()),
        "gradients": sum(_bytes(buffer.grad_data) for buffer in buffers),
        "optimizer": sum(map(_bytes, _optimizer_tensors(optimizer))),
    }


def _optimizer_tensors(optimizer: Any) -> list[Tensor]:
    """Return the fp32 weights and both moments."""
    parts = getattr(optimizer, "chained_optimizers", [optimizer])
    tensors: dict[int, Tensor] = {}
    for part in parts:
        for group in part.optimizer.param_groups:
            for weight in group["params"]:
                state = part.optimizer.state[weight]
                for tensor in (weight, state["exp_avg"], state["exp_avg_sq"]):
                    tensors[id(tensor)] = tensor
    return list(tensors.values())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def layer_passes(model: Path, recompute: bool) -> tuple[list[int], dict[str, Tensor]]:
    """Return how often each layer ran in one forward and backward pass, and all gradients."""
    from nemo_bielik.megatron.batches import Batch
    from nemo_bielik.megatron.model import (
        distributed_session,
        model_provider,
        open_bridge,
        recompute_layers,
    )

    tokens = torch.arange(32).view(2, 16) % 48
    batch = Batch(tokens, tokens, torch.ones_like(tokens), torch.arange(16).repeat(2, 1))
    with distributed_session():
        provider = model_provider(open_bridge(model), ParallelConfig(), "fp32", 16)
        if recompute:
            recompute_layers(provider)
        provider.finalize()
        provider.initialize_model_parallel(seed=1)
        chunk = provider.provide_distributed_model(wrap_with_ddp=False)[0]
        passes = [0] * len(chunk.decoder.layers)

        def count(number: int) -> Any:
            def hook(*_: Any) -> None:
                passes[number] += 1

            return hook

        for number, layer in enumerate(chunk.decoder.layers):
            layer.register_forward_hook(count(number))
        chunk(**batch.model_inputs()).square().sum().backward()
        return passes, {name: p.grad for name, p in chunk.named_parameters()}


def kept(model: Path, parallel: ParallelConfig, recompute: bool) -> dict[str, int]:
    """Return the bytes that a bf16 model of plain layers keeps in a forward pass, by what keeps it.

    Its attention keeps no scores, as a kernel's would not; a storage counts once, weights never.
    """
    from megatron.core.utils import unwrap_model

    from nemo_bielik.megatron.batches import next_batch
    from nemo_bielik.megatron.context_parallel import _bias, own_mask
    from nemo_bielik.megatron.model import (
        distributed_session,
        model_provider,
        open_bridge,
        recompute_layers,
        split_sequence_layers,
    )
    from nemo_bielik.megatron.output_layer import end_at_hidden

    rows = {"tokens": torch.arange(32).view(2, 16), "position_ids": torch.arange(16).repeat(2, 1)}
    rows |= {"labels": rows["tokens"], "loss_mask": torch.ones(2, 16)}
    with distributed_session():
        provider = model_provider(open_bridge(model), parallel, "bf16", 16)
        provider.transformer_layer_spec = split_sequence_layers
        end_at_hidden(provider)
        if recompute:
            recompute_layers(provider)
        provider.finalize()
        provider.initialize_model_parallel(seed=1)
        (chunk,) = unwrap_model(provider.provide_distributed_model(wrap_with_ddp=False))
        batch = next_batch(iter([rows]))
        batch = replace(batch, mask=own_mask(rows["position_ids"]))
        saved = _Saved(chunk)
        with torch.autograd.graph.saved_tensors_hooks(saved.add, lambda tensor: tensor):
            chunk(**batch.model_inputs())
        return saved.bytes([batch.mask, _bias(batch.mask, torch.bfloat16)])


class _Saved:
    """Storages that autograd saves, by the layer in which they are first: "layer", or "rest"."""

    def __init__(self, chunk: Any) -> None:
        self.place = "rest"
        self.known = {p.untyped_storage().data_ptr() for p in chunk.parameters()}
        self.tensors: list[tuple[str, Tensor]] = []
        for layer in chunk.decoder.layers:
            layer.register_forward_pre_hook(lambda *_: setattr(self, "place", "layer"))
        chunk.decoder.final_layernorm.register_forward_pre_hook(
            lambda *_: setattr(self, "place", "rest")
        )

    def add(self, tensor: Tensor) -> Tensor:
        """Note a tensor; that it is held keeps its storage's address from being used again.

        Held without its history: an output kept by the step that made it would never be freed.
        """
        tensor = tensor.detach()
        address = tensor.untyped_storage().data_ptr()
        if address not in self.known:
            self.known.add(address)
            self.tensors.append((self.place, tensor))
        return tensor

    def bytes(self, masks: list[Tensor]) -> dict[str, int]:
        """Return what the layers keep by kind: what `masks` store, and all else."""
        found, of_masks = {"mask": 0, "layers": 0}, {m.untyped_storage().data_ptr() for m in masks}
        for place, tensor in self.tensors:
            if place == "layer":
                storage = tensor.untyped_storage()
                found["mask" if storage.data_ptr() in of_masks else "layers"] += storage.nbytes()
        return found
