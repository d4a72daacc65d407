"""Where the teacher's distribution comes from, apart from the loss that uses it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.core.transformer.module import MegatronModule
from megatron.core.utils import unwrap_model
from modelopt.torch.distill import DistillationModel
from torch import Tensor

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.distill.fused import OutputLayer
from nemo_bielik.distill.top_k import TopK
from nemo_bielik.megatron.batches import Batch
from nemo_bielik.megatron.model import model_provider, open_bridge
from nemo_bielik.megatron.output_layer import output_layer, return_hidden
from nemo_bielik.megatron.upstream_fixes import install_pipeline_shapes
from nemo_bielik.planner.flops import forward_flops_per_token
from nemo_bielik.training import Precision, TrainConfig


class TeacherSource(Protocol):
    """A teacher, however it is kept: live beside the student, run ahead of it, or in a cache."""

    def attach(self, provider: GPTModelProvider, config: TrainConfig) -> None:
        """Prepare the student's provider before its model is built."""

    def flops_per_token(self, config: TrainConfig) -> float:
        """Return the model FLOPs that the teacher adds to a step for each of its tokens."""

    def read(
        self, model: MegatronModule, output: Any, batch: Batch
    ) -> tuple[Tensor, OutputLayer | TopK | None]:
        """Split a forward pass into (student's output, what the loss needs of the teacher).

        The latter is None on all but the last stage, where the former are hidden states.
        """


class LiveTeacher:
    """The original model, frozen, run on the same batch and the same parallel layout.

    Its precision is its own: a bf16 teacher takes half the memory beside an fp32 student.
    """

    def __init__(self, directory: Path, precision: Precision | None = None) -> None:
        self.directory, self.precision = directory, precision

    def attach(self, provider: GPTModelProvider, config: TrainConfig) -> None:
        """Have the student built together with this teacher."""
        install_pipeline_shapes(_pair_shapes)
        teacher_provider = model_provider(
            open_bridge(self.directory),
            config.parallel,
            self.precision or config.precision,
            config.sequence_length,
        )
        # what travels between stages loses nothing of either
        provider.pipeline_dtype = torch.promote_types(
            provider.params_dtype, teacher_provider.params_dtype
        )

        def pair(student: list[MegatronModule]) -> list[MegatronModule]:
            teacher_provider.finalize()
            teacher = teacher_provider.provide_distributed_model(wrap_with_ddp=False)
            return [TeacherStudent(*chunks) for chunks in zip(student, teacher, strict=True)]

        provider.register_pre_wrap_hook(pair)

    def flops_per_token(self, config: TrainConfig) -> float:
        """Return those of a forward pass."""
        return teacher_flops_per_token(self.directory, config.sequence_length)

    def read(
        self, model: MegatronModule, output: Any, batch: Batch
    ) -> tuple[Tensor, OutputLayer | None]:
        """Return what `TeacherStudent.forward` computed, with the teacher's output weight."""
        if not isinstance(output, tuple):
            return output, None
        student, teacher = output
        return student, output_layer(unwrap_model(unwrap_model(model).teacher), teacher)


def teacher_flops_per_token(directory: Path, sequence_length: int) -> float:
    """Return the model FLOPs of a teacher's forward pass for one token."""
    return forward_flops_per_token(Checkpoint.open(directory).arch, sequence_length)


class TeacherStudent(MegatronModule):
    """A student to train with a frozen teacher beside it, as one model for Megatron.

    The teacher is no submodule: optimizer, gradient buffers and checkpoints see the student alone.
    It ends at its hidden states; whether the student does, is its objective's to say.
    Between pipeline stages both hidden states travel in one tensor, [s, b, h_student + h_teacher].
    """

    def __init__(self, student: MegatronModule, teacher: MegatronModule) -> None:
        super().__init__(config=student.config)
        self.student = student
        teacher.requires_grad_(False).eval()
        return_hidden(unwrap_model(teacher))
        self.__dict__["teacher"] = teacher

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.student, name)

    def set_input_tensor(self, input_tensor: Any) -> None:
        """Take what the previous stage sent apart; None on the first stage."""
        received = input_tensor[0] if isinstance(input_tensor, list) else input_tensor
        if received is None:
            self.student.set_input_tensor(None)
            self.teacher.set_input_tensor(None)
            return
        student, teacher = received.split(
            [self.config.hidden_size, self.teacher.config.hidden_size], dim=-1
        )
        self.student.set_input_tensor([student.to(self.config.params_dtype)])
        self.teacher.set_input_tensor([teacher.detach().to(self.teacher.config.params_dtype)])

    def forward(self, **inputs: Any) -> Any:
        """Return (student's, teacher's) output on the last stage, one joint tensor before."""
        with torch.no_grad():
            teacher = self.teacher(**inputs)
        student = self.student(**inputs)
        if self.student.post_process:
            return student, teacher
        return torch.cat([student, teacher], dim=-1)  # in the wider of their types

    def sharded_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the student's, so that a checkpoint is a plain model's."""
        return self.student.sharded_state_dict(*args, **kwargs)

    def state_dict_for_save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Return the student's."""
        return self.student.state_dict_for_save_checkpoint(*args, **kwargs)

    def load_state_dict(self, state_dict: Any, strict: bool = True, **kwargs: Any) -> Any:
        """Load into the student."""
        return self.student.load_state_dict(state_dict, strict=strict, **kwargs)


@contextlib.contextmanager
def student_of(model: MegatronModule) -> Iterator[MegatronModule]:
    """Yield the model to export: the student of a pair, ours or ModelOpt's, or the model."""
    inner = unwrap_model(model)
    if isinstance(inner, TeacherStudent):
        yield inner.student
    elif isinstance(inner, DistillationModel):
        with inner.hide_teacher_model():
            yield inner
    else:
        yield inner


def _pair_shapes(model: Any) -> Any:
    """Return the hook that widens what pipeline stages exchange, or None for a plain model."""
    pair = unwrap_model(model[0] if isinstance(model, list) else model)
    if not isinstance(pair, TeacherStudent) or pair.config.pipeline_model_parallel_size == 1:
        return None
    extra = pair.teacher.config.hidden_size

    def widen(shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return [(*shape[:-1], shape[-1] + extra) for shape in shapes]

    return lambda receive, send: (widen(receive), widen(send))
