"""DPO-Positive as an objective of the engine: whole pairs in a row, the reference read from disk.

A row holds pairs, the chosen answer's document before the rejected one's, so both are always in one
micro-batch and one forward pass of one model serves both. The loss is divided by the pairs of all
ranks and micro-batches. Ranks that share a row sum what each has of an answer before the loss,
which is not linear in it; all of them then take the loss of the same pairs, and one counts these.
"""

from pathlib import Path

import torch
from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.core import parallel_state
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from nemo_bielik.align.dpo_loss import AnswerLogProbs, dpo_positive_loss
from nemo_bielik.align.reference import ReferenceConfig, ReferenceLogProbs
from nemo_bielik.align.reference import prepare as prepare_reference
from nemo_bielik.megatron.batches import Batch
from nemo_bielik.megatron.objectives import Loss, OwnLoss
from nemo_bielik.megatron.output_layer import end_at_hidden
from nemo_bielik.megatron.reference_pass import answers_of, compute_reference, log_probs_of
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
        sums, weights = log_probs_of(policy, hidden, batch)
        known = torch.from_numpy(self.reference.read(answers_of(batch))).to(sums)
        total, count, watched = dpo_positive_loss(
            _by_pairs(sums), _by_pairs(known), self.beta, self.positive_weight, weights[::2]
        )
        figures = {"loss": total.detach(), **watched}
        log = {
            name: torch.stack([value, count.to(value)]).float() for name, value in figures.items()
        }
        counts = parallel_state.get_context_parallel_rank() == 0
        return total.float(), (count * counts).to(torch.int), log


def _by_pairs(answers: Tensor) -> AnswerLogProbs:
    """Tell apart what lies side by side in every row: chosen, rejected, chosen, …"""
    return AnswerLogProbs(answers[::2], answers[1::2])
