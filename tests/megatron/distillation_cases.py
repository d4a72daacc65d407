"""What tests of distillation run in the lanes beside the stage itself."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class MostRows(TorchDispatchMode):
    """Remembers the most rows that any tensor with one column a token of the vocabulary had."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(made, Tensor) and made.shape[-1:] == (self.vocabulary,):
                rows = 0 if made.is_meta else made.numel() // self.vocabulary
                self.rows = max(self.rows, rows)
        return result


def most_logits(stage: str, config: Any, chunk_bytes: int) -> int:
    """Run a stage with logits of `chunk_bytes` at once; return the most rows of logits there were.

    A weight [vocab, hidden] counts with its `hidden` rows, because products use it transposed.
    """
    import importlib

    from nemo_bielik.checkpoint import Checkpoint
    from nemo_bielik.distill import fused

    module, _, name = stage.partition(":")
    run = getattr(importlib.import_module(module), name)
    usual = fused._CHUNK_BYTES["cpu"]
    fused._CHUNK_BYTES["cpu"] = chunk_bytes
    try:
        with MostRows(Checkpoint.open(config.model).arch.vocab_size) as watch:
            run(config)
    finally:
        fused._CHUNK_BYTES["cpu"] = usual
    return watch.rows


def hidden_gradients(sequence_parallel: bool, hidden: Tensor, weight: Tensor) -> list[Tensor]:
    """Return the gradients of hidden states [s, b, h] and of this rank's part of the weight.

    The loss is Σ sin(logits), taken from what `return_hidden` gives; with `sequence_parallel` this
    rank holds its part of the sequence, and gets its part of the gradient.
    """
    from types import SimpleNamespace

    from megatron.core import parallel_state
    from megatron.core.model_parallel_config import ModelParallelConfig
    from megatron.core.tensor_parallel import ColumnParallelLinear

    from nemo_bielik.megatron.model import distributed_session
    from nemo_bielik.megatron.output_layer import output_layer, return_hidden

    ranks = 2
    with distributed_session():
        parallel_state.initialize_model_parallel(tensor_model_parallel_size=ranks)
        rank = parallel_state.get_tensor_model_parallel_rank()
        settings = ModelParallelConfig(
            tensor_model_parallel_size=ranks,
            sequence_parallel=sequence_parallel,
            params_dtype=torch.float64,
            perform_initialization=False,
        )
        layer = ColumnParallelLinear(
            *reversed(weight.shape), config=settings, init_method=torch.nn.init.zeros_, bias=False
        )
        layer.weight.data.copy_(weight.chunk(ranks)[rank])
        model = SimpleNamespace(
            output_layer=layer, post_process=True, share_embeddings_and_output_weights=False
        )
        return_hidden(model)
        mine = hidden.chunk(ranks)[rank] if sequence_parallel else hidden
        mine = mine.clone().requires_grad_()
        # batch first, as GPTModel returns it: the gradient that comes back is not contiguous
        found = output_layer(model, layer(mine)[0].transpose(0, 1).contiguous())
        (found.hidden @ found.weight.t()).sin().sum().backward()
        return [mine.grad, layer.weight.grad]


def bf16_logits(model: Path, tokens: Tensor, positions: Tensor) -> Tensor | None:
    """Return the logits [b, s, vocab] of a Megatron model in bf16, with no loss and no student."""
    from engine_cases import whole_logits

    from nemo_bielik.megatron.model import inference_model
    from nemo_bielik.parallel import ParallelConfig

    arguments = (model, ParallelConfig(), tokens.size(1), "bf16")
    with inference_model(*arguments) as (_, chunks):
        return whole_logits(chunks, tokens, positions)


def held_bytes(stage: str, config: Any) -> dict[str, int]:
    """Run a distillation stage; return what its models, gradients and optimizer hold at its end."""
    import importlib
    from unittest import mock

    from megatron.core.utils import unwrap_model

    from nemo_bielik.megatron.callbacks import Metrics

    held = {}

    def count(_: Any, context: Any) -> None:
        (chunk,) = context.model
        teacher = list(unwrap_model(unwrap_model(chunk).teacher).parameters())
        gradients = [getattr(p, name, None) for p in teacher for name in ("grad", "main_grad")]
        states = context.optimizer.optimizer.state.values()
        moments = [state[name] for state in states for name in ("exp_avg", "exp_avg_sq")]
        held["teacher"] = size_of(teacher)
        held["teacher's gradients"] = size_of(x for x in gradients if x is not None)
        held["gradient buffers"] = size_of(buffer.grad_data for buffer in chunk.buffers)
        held["optimizer's moments"] = size_of(moments)

    module, _, name = stage.partition(":")
    with mock.patch.object(Metrics, "on_train_end", count):
        getattr(importlib.import_module(module), name)(config)
    return held


def size_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
