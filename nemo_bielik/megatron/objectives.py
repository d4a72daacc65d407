"""What a training step minimises: one forward step per objective, for Bridge's `pretrain`.

An objective prepares the model's provider, then turns each micro-batch into the model's output and
a function from that output to (sum, count, log): Megatron divides the sum once, by all tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.bridge.training.state import GlobalState
from megatron.core import parallel_state
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from megatron.core.transformer.module import MegatronModule
from megatron.core.utils import unwrap_model
from torch import Tensor

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.distill.fused import OutputLayer, fused_loss
from nemo_bielik.distill.loss_config import LossConfig
from nemo_bielik.distill.token_classes import as_log, class_sums
from nemo_bielik.distill.top_k import TopK
from nemo_bielik.megatron.batches import Batch, next_batch
from nemo_bielik.megatron.output_layer import end_at_hidden, output_layer
from nemo_bielik.megatron.teacher import TeacherSource, teacher_flops_per_token
from nemo_bielik.planner.flops import forward_flops_per_token, training_flops_per_token
from nemo_bielik.training import TrainConfig

Loss = tuple[Tensor, Tensor, dict[str, Tensor]]
Step = tuple[Tensor, Callable[[Tensor], Loss]]


class Objective(Protocol):
    """What `run_training` needs; ``__call__`` is Bridge's forward step."""

    def prepare(self, provider: GPTModelProvider, config: TrainConfig) -> GPTModelProvider:
        """Return the provider to train with."""

    def flops_per_token(self, config: TrainConfig) -> float:
        """Return the model FLOPs that a step needs for each of its tokens."""

    def __call__(
        self, state: GlobalState, data_iterator: Iterator[Any], model: MegatronModule
    ) -> Step:
        """Run one micro-batch forward."""


class OwnLoss(ABC):
    """An objective whose loss needs the trained model and its batch, and no other model's pass."""

    def flops_per_token(self, config: TrainConfig) -> float:
        """Return those of the forward and backward pass."""
        return student_flops_per_token(config)

    def __call__(
        self, state: GlobalState | None, data_iterator: Iterator[Any], model: MegatronModule
    ) -> Step:
        """Return the model's output and its loss; Bridge's state is not looked at."""
        batch = next_batch(data_iterator)
        output = model(**batch.model_inputs())
        return output, partial(self._loss, batch, unwrap_model(model))

    @abstractmethod
    def _loss(self, batch: Batch, model: MegatronModule, output: Tensor) -> Loss:
        """Return (sum, count, log) of the model's output, on the last pipeline stage."""


class NextToken(OwnLoss):
    """Cross-entropy with the next token of the text, from the logits [b, s, vocab / ranks]."""

    def prepare(self, provider: GPTModelProvider, config: TrainConfig) -> GPTModelProvider:
        """Train the model as it is."""
        return provider

    def _loss(self, batch: Batch, model: MegatronModule, logits: Tensor) -> Loss:
        labels, mask = (x.view(logits.shape[:2]) for x in (batch.labels, batch.loss_mask))
        return counted((vocab_parallel_cross_entropy(logits, labels) * mask).sum(), batch)


class Distillation:
    """A divergence from a teacher's distribution, wherever that comes from; labels if asked for.

    The model ends at its hidden states: `fused_loss` makes logits of a few tokens at a time.
    """

    def __init__(self, source: TeacherSource, loss: LossConfig) -> None:
        self.source, self.loss = source, loss
        self.splits = False

    def flops_per_token(self, config: TrainConfig) -> float:
        """Return the student's and its teacher's."""
        return student_flops_per_token(config) + self.source.flops_per_token(config)

    def prepare(self, provider: GPTModelProvider, config: TrainConfig) -> GPTModelProvider:
        """Attach the teacher and take the logits away."""
        self.splits = config.logging.token_classes
        self.source.attach(provider, config)
        end_at_hidden(provider)
        return provider

    def __call__(
        self, state: GlobalState, data_iterator: Iterator[Any], model: MegatronModule
    ) -> Step:
        """Return the student's hidden states [b, s, hidden] and their loss against the teacher."""
        batch = next_batch(data_iterator)
        output, teacher = self.source.read(model, model(**batch.model_inputs()), batch)
        return output, partial(self._loss, batch, unwrap_model(model), teacher)

    def _loss(
        self,
        batch: Batch,
        student: MegatronModule,
        teacher: OutputLayer | TopK | None,
        hidden: Tensor,
    ) -> Loss:
        assert teacher is not None, "the loss is taken on the last stage"
        labels, mask = (x.view(hidden.shape[:2]) for x in (batch.labels, batch.loss_mask))
        group = parallel_state.get_tensor_model_parallel_group()
        layer = output_layer(student, hidden)
        total, _ = fused_loss(layer, teacher, mask, self.loss, labels, group)
        total, count, log = counted(total, batch)
        if self.splits and not student.training:
            temperature = self.loss.temperature if isinstance(teacher, TopK) else 1.0
            log |= as_log(class_sums(layer, teacher, mask, group, temperature))
        return total, count, log


class StockDistillation:
    """Megatron-Bridge's own `distill()` with ModelOpt's logits loss, to compare ours with.

    Known upstream (ModelOpt 0.43): its loss is divided by T but not multiplied by T².
    """

    def __init__(self, teacher: Path, temperature: float) -> None:
        self.teacher, self.temperature = teacher, temperature

    def flops_per_token(self, config: TrainConfig) -> float:
        """Return the student's and its teacher's."""
        teacher = teacher_flops_per_token(self.teacher, config.sequence_length)
        return student_flops_per_token(config) + teacher

    def prepare(self, provider: GPTModelProvider, config: TrainConfig) -> GPTModelProvider:
        """Return Bridge's provider of a teacher and a student."""
        from megatron.bridge.models.distillation_provider import convert_to_distillation_provider
        from megatron.bridge.training.post_training.distillation import ModelOptDistillConfig

        from nemo_bielik.megatron.model import model_provider, open_bridge

        teacher = model_provider(
            open_bridge(self.teacher), config.parallel, config.precision, config.sequence_length
        )
        settings = ModelOptDistillConfig(
            skip_lm_loss=True, kd_loss_scale=1.0, logit_kl_temperature=self.temperature
        )
        return convert_to_distillation_provider(provider, teacher, settings)

    def __call__(
        self, state: GlobalState, data_iterator: Iterator[Any], model: MegatronModule
    ) -> Step:
        """Run the stock loss on our batches: its own reader knows no document boundaries."""
        from megatron.bridge.training.gpt_step import _create_loss_function_modelopt

        batch = next_batch(data_iterator)
        output = model(**batch.model_inputs(), labels=batch.labels)
        stock_loss = _create_loss_function_modelopt(
            batch.loss_mask, model, check_for_nan_in_loss=False, check_for_spiky_loss=False
        )

        def loss(output: Tensor) -> Loss:
            total, count, report = stock_loss(output)
            key = "logits distillation loss" if model.training else "lm loss"
            return total, count, {"loss": report[key]}

        return output, loss


def student_flops_per_token(config: TrainConfig) -> float:
    """Return the FLOPs of training `config.model`; under adapters no weight gradients are made."""
    arch = Checkpoint.open(config.model).arch
    if config.lora.rank:
        return 2 * forward_flops_per_token(arch, config.sequence_length)
    return training_flops_per_token(arch, config.sequence_length)


def counted(total: Tensor, batch: Batch) -> Loss:
    """Return (sum, number of tokens that carry loss, what is logged), as Bridge reduces it.

    Tokens that weigh more count once all the same: a weight of 2 is twice the pull.
    """
    count = (batch.loss_mask != 0).sum().to(torch.int)
    return total, count, {"loss": torch.stack([total.detach().float(), count.float()])}
