"""DPO-Positive as an objective of the engine: whole pairs in a row, the reference read from disk.

A row holds pairs, the chosen answer's document before the rejected one's, so both are always in one
micro-batch and one forward pass of one model serves both. The loss is divided by the pairs of all
ranks and micro-batches. Context parallelism is not part of the engine: a pair lies on one rank (or
on the tensor-parallel ranks that share it).
"""

from pathlib import Path

import torch
from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.core import parallel_state
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from nemo_bielik.align.dpo_loss import AnswerLogProbs, dpo_positive_loss
from nemo_bielik.align.log_probs import answer_log_probs
from nemo_bielik.align.reference import ReferenceConfig, ReferenceLogProbs
from nemo_bielik.align.reference import prepare as prepare_reference
from nemo_bielik.megatron.batches import Batch
from nemo_bielik.megatron.objectives import Loss, OwnLoss
from nemo_bielik.megatron.output_layer import end_at_hidden, output_layer
from nemo_bielik.megatron.reference_pass import answers_of, compute_reference
from nemo_bielik.training import TrainConfig


class Preferences(OwnLoss):
    """Learn which answers are preferred; the reference's log-probabilities are in `directory`.

    If `settings` are given they are computed first, on the run's own ranks and before its model is
    built.
    """

    def __init__(
        self,
        directory: Path,
        settings: ReferenceConfig | None,
        beta: float,
        positive_weight: float,
    ) -> None:
        self.directory, self.settings = directory, settings
        self.beta, self.positive_weight = beta, positive_weight

    def prepare(self, provider: GPTModelProvider, config: TrainConfig) -> GPTModelProvider:
        """Make sure of the reference and take the logits away."""
        if self.settings is not None:
            compute_reference(self.settings, prepare_reference(self.settings))
        self.reference = ReferenceLogProbs(self.directory)
        end_at_hidden(provider)
        return provider

    def _loss(self, batch: Batch, policy: MegatronModule, hidden: Tensor) -> Loss:
        labels, mask, positions = (
            values.view(hidden.shape[:2])
            for values in (batch.labels, batch.loss_mask, batch.position_ids)
        )
        group = parallel_state.get_tensor_model_parallel_group()
        layer = output_layer(policy, hidden)
        sums, weights = answer_log_probs(layer, labels, mask, positions, group)
        known = torch.from_numpy(self.reference.read(answers_of(batch))).to(sums)
        total, count, watched = dpo_positive_loss(
            _by_pairs(sums), _by_pairs(known), self.beta, self.positive_weight, weights[::2]
        )
        figures = {"loss": total.detach(), **watched}
        log = {
            name: torch.stack([value, count.to(value)]).float() for name, value in figures.items()
        }
        return total.float(), count.to(torch.int), log


def _by_pairs(answers: Tensor) -> AnswerLogProbs:
    """Tell apart what lies side by side in every row: chosen, rejected, chosen, …"""
    return AnswerLogProbs(answers[::2], answers[1::2])
