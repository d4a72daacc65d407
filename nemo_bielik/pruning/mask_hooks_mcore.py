"""A frozen Megatron model whose units are multiplied by masks, and the loss's slope by each mask.

Shapes: s positions, b samples, h hidden, f ffn, d head_dim; Megatron keeps activations as
[s, b, ·]. Masks are full size on every rank: layers [layers], hidden [h], ffn [layers, f],
groups [layers, groups], heads [layers, groups, heads of a group]; a kind that is missing is all 1.

Where they act: `hidden` on everything that is written into the residual stream (embedding,
attention, MLP), so that a closed channel is 0 everywhere; `layers` on what a layer writes; `ffn`
on the input of the down projection; `heads` and `groups` on the input of the output projection.
RMSNorm keeps dividing by the full hidden size. That is what the sliced model computes once its
norms are rescaled (`select.norm_scale`), so masks of 0 and 1 are that model exactly; the paper
averages over the open channels instead, which equals slicing without rescaling.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.utils import unwrap_model
from torch import Tensor, nn

from nemo_bielik.arch import ModelArch
from nemo_bielik.megatron.objectives import NextToken
from nemo_bielik.megatron.schedule import run_schedule
from nemo_bielik.pruning.calibration_mcore import attached
from nemo_bielik.pruning.score import ScoreConfig


class MaskedModel:
    """Losses of a model under masks; every rank calls with the same masks and its own batches."""

    def __init__(self, model: list[nn.Module], arch: ModelArch, config: ScoreConfig) -> None:
        self.model, self.arch, self.config = model, arch, config
        self.sequence_parallel = config.parallel.sequence
        self.tensor_rank = parallel_state.get_tensor_model_parallel_rank()
        self.tensor_ranks = config.parallel.tensor
        self.masks: dict[str, Tensor] = {}
        for chunk in model:
            chunk.requires_grad_(False)

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Apply the masks in `use` to every forward pass within the block."""
        model = unwrap_model(self.model)[0]
        handles = []
        if model.pre_process:
            handles.append(model.embedding.register_forward_hook(self._scale_embedding))
        for layer in model.decoder.layers:
            index = layer.layer_number - 1
            for writer, reads in (
                (layer.self_attention.linear_proj, self._head_mask),
                (layer.mlp.linear_fc2, self._ffn_mask),
            ):
                handles.append(writer.register_forward_pre_hook(_scale_input(reads, index)))
                handles.append(writer.register_forward_hook(_scale_output(self._writes, index)))
        with attached(handles):
            yield

    def use(self, masks: Mapping[str, Tensor], learn: bool = False) -> None:
        """Multiply by `masks` from now on; with `learn` their slopes are collected."""
        self.masks = {
            name: mask.detach().float().cuda().requires_grad_(learn) for name, mask in masks.items()
        }

    def loss(self, masks: Mapping[str, Tensor], batches: Sequence[Any]) -> tuple[float, int]:
        """Return (sum, number of tokens) of the next-token loss over the batches of all ranks."""
        self.use(masks)
        with torch.no_grad():
            total = self._run(batches)
        found = self._over_all_ranks(total)
        return float(found[0]), int(found[1])

    def gradients(
        self, masks: Mapping[str, Tensor], batches: Sequence[Any]
    ) -> tuple[float, dict[str, Tensor]]:
        """Return the mean loss of a token over the batches of all ranks and its slope by masks.

        The slopes are float64 on the CPU, in the shapes of `masks`.
        """
        self.use(masks, learn=True)
        total = self._run(batches, backward=True)
        slopes = [self._own_slope(name, mask) for name, mask in self.masks.items()]
        found = self._over_all_ranks(torch.cat([total, *(slope.flatten() for slope in slopes)]))
        tokens = found[1]
        parts = torch.split(found[2:] / tokens, [slope.numel() for slope in slopes])
        shaped = zip(self.masks, parts, slopes, strict=True)
        by_mask = {name: part.view(own.shape) for name, part, own in shaped}
        return float(found[0] / tokens), by_mask

    def _run(self, batches: Sequence[Any], backward: bool = False) -> Tensor:
        """Return (loss sum, tokens) of this rank's batches, 0 where another rank has the same."""
        step = partial(NextToken(), None)
        reports = run_schedule(
            step, self.model, batches, len(batches), self.config, backward=backward
        )
        total = torch.zeros(2, dtype=torch.float64, device=torch.cuda.current_device())
        if self.tensor_rank == 0:  # only the last pipeline stage has reports
            for report in reports:
                total += report["loss"]
        return total

    def _own_slope(self, name: str, mask: Tensor) -> Tensor:
        """Return this rank's share of a mask's slope; the shares of all ranks add up to it.

        Tensor ranks hold disjoint heads and ffn channels. Of the residual stream each has the
        whole, so only the first counts, unless the sequence is split over them.
        """
        whole_stream = name in ("hidden", "layers") and not self.sequence_parallel
        if mask.grad is None or (whole_stream and self.tensor_rank > 0):
            return torch.zeros_like(mask, dtype=torch.float64)
        return mask.grad.double()

    @staticmethod
    def _over_all_ranks(values: Tensor) -> Tensor:
        dist.all_reduce(values)
        return values.cpu()

    def _scale_embedding(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        hidden = self.masks.get("hidden")
        return output if hidden is None else output * hidden.to(output.dtype)

    def _writes(self, layer: int) -> Tensor | None:
        hidden, layers = self.masks.get("hidden"), self.masks.get("layers")
        if hidden is None or layers is None:
            return hidden if layers is None else layers[layer]
        return hidden * layers[layer]

    def _ffn_mask(self, layer: int) -> Tensor | None:
        ffn = self.masks.get("ffn")
        return None if ffn is None else self._own_part(ffn[layer])

    def _head_mask(self, layer: int) -> Tensor | None:
        """Return the mask of this rank's inputs of the output projection, [heads · d / ranks]."""
        heads, groups = self.masks.get("heads"), self.masks.get("groups")
        if heads is None and groups is None:
            return None
        shape = (self.arch.num_query_groups, self.arch.heads_per_group)
        mask = torch.ones(shape, device=torch.cuda.current_device())
        mask = mask if heads is None else mask * heads[layer]
        mask = mask if groups is None else mask * groups[layer].unsqueeze(1)
        own: Tensor = self._own_part(mask.flatten()).repeat_interleave(self.arch.head_dim)
        return own

    def _own_part(self, mask: Tensor) -> Tensor:
        own: Tensor = mask.chunk(self.tensor_ranks)[self.tensor_rank]
        return own


MaskOf = Callable[[int], Tensor | None]


def _scale_input(mask_of: MaskOf, layer: int) -> Callable[[nn.Module, Any], Any]:
    def hook(module: nn.Module, args: Any) -> Any:
        mask = mask_of(layer)
        return args if mask is None else (args[0] * mask.to(args[0].dtype), *args[1:])

    return hook


def _scale_output(mask_of: MaskOf, layer: int) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        mask = mask_of(layer)
        # (output, bias): the dense families that this package knows have no bias here
        return output if mask is None else (output[0] * mask.to(output[0].dtype), *output[1:])

    return hook
