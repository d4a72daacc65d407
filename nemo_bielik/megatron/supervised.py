"""Fine-tuning as an objective of the engine: the labels' surprise, without ever holding all logits.

At 32,768 tokens the logits of a vocabulary of 32,128 are gigabytes that `NextToken` keeps and this
one does not; each example counts by its weight.
"""

from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.core import parallel_state
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from nemo_bielik.align.log_probs import label_log_probs
from nemo_bielik.distill.losses import counted_tokens
from nemo_bielik.megatron.batches import Batch
from nemo_bielik.megatron.objectives import Loss, OwnLoss, counted
from nemo_bielik.megatron.output_layer import end_at_hidden, output_layer
from nemo_bielik.training import TrainConfig


class Supervised(OwnLoss):
    """Σ w · −log P(token) over what the assistant says, divided by the number of its tokens."""

    def prepare(self, provider: GPTModelProvider, config: TrainConfig) -> GPTModelProvider:
        """Take the logits away."""
        end_at_hidden(provider)
        return provider

    def _loss(self, batch: Batch, model: MegatronModule, hidden: Tensor) -> Loss:
        labels, mask = (x.view(hidden.shape[:2]) for x in (batch.labels, batch.loss_mask))
        group = parallel_state.get_tensor_model_parallel_group()
        log_probs = label_log_probs(output_layer(model, hidden), labels, mask, group)
        weights = mask.reshape(-1)[counted_tokens(mask)]
        return counted(-(log_probs * weights).sum(), batch)
