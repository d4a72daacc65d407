"""A frozen model in a parallel layout of its own, over the ranks of a model in training."""

from collections.abc import Iterable
from typing import Any

import torch
from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.core import parallel_state
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.utils import unwrap_model
from torch import Tensor

from nemo_bielik.megatron.batches import Batch
from nemo_bielik.megatron.output_layer import output_weight, return_hidden
from nemo_bielik.megatron.rank_exchange import last_stage_ranks
from nemo_bielik.megatron.upstream_fixes import SecondLayout
from nemo_bielik.parallel import ParallelConfig


class FrozenModel:
    """The model of a provider that was made for `parallel`; every rank builds its part.

    It ends at its hidden states. Neither optimizer nor gradient buffers know of it.
    """

    def __init__(self, provider: GPTModelProvider, parallel: ParallelConfig) -> None:
        self._layout = SecondLayout(
            tensor_model_parallel_size=parallel.tensor,
            pipeline_model_parallel_size=parallel.pipeline,
        )
        with self._layout:
            provider.finalize()
            (self.chunk,) = provider.provide_distributed_model(wrap_with_ddp=False)
            self.replica = parallel_state.get_data_parallel_rank()
            #: Ranks of the last stage, [replica][tensor-parallel rank].
            self.last_stage = last_stage_ranks()
        self.chunk.requires_grad_(False).eval()
        self._model: Any = unwrap_model(self.chunk)
        return_hidden(self._model)
        self._dtype: torch.dtype = provider.params_dtype
        self.hidden_size: int = provider.hidden_size
        self.vocab_size: int = provider.vocab_size

    def empty(self, *shape: int) -> Tensor:
        """Return memory for what comes from another rank, in the model's type."""
        return torch.empty(shape, dtype=self._dtype, device=torch.cuda.current_device())

    def take_output_weight(self) -> Tensor | None:
        """Return this rank's rows of the output weight, [vocab / tensor ranks, hidden], if any.

        The model forgets them, unless they are its embedding too.
        """
        if not self._model.post_process:
            return None
        weight = output_weight(self._model).detach()
        self._model.output_layer.weight = None
        return weight

    @torch.no_grad()
    def hidden_states(self, batches: Iterable[Batch]) -> list[Tensor]:
        """Return the last hidden states [b, s, h] of this replica's batches, last stage only.

        The replica's ranks call with the same batches; those of different replicas are their own.
        """
        with self._layout:
            pipeline = P2PCommunicator(
                parallel_state.get_pipeline_model_parallel_group(), self._model.config
            )
            passed = (self._forward(batch, pipeline) for batch in batches)
            return [hidden for hidden in passed if hidden is not None]

    def _forward(self, batch: Batch, pipeline: P2PCommunicator) -> Tensor | None:
        """Pass one batch on; stages are at different batches meanwhile."""
        first, last = self._model.pre_process, self._model.post_process
        inputs = batch.model_inputs()
        width, length = inputs["input_ids"].shape
        if self._model.config.sequence_parallel:
            length //= self._model.config.tensor_model_parallel_size
        received = pipeline.recv_forward((length, width, self.hidden_size), first)
        self.chunk.set_input_tensor([received])
        output: Tensor = self.chunk(**inputs)
        pipeline.send_forward(output, last)
        # Megatron widens what a bf16 model returns to float32
        return output.view(*batch.tokens.shape, -1).to(self._dtype) if last else None
