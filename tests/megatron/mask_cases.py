"""What tests of masks run in the lanes, where Megatron is imported; they return plain values."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from engine_cases import whole_logits
from torch import Tensor

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.pruning.score import ScoreConfig, score


def masked_logits(config: ScoreConfig, masks: dict[str, Tensor], tokens: Tensor) -> Tensor | None:
    """Return the logits [b, s, vocab] of single-document rows under masks, on the last stage."""
    from nemo_bielik.megatron.model import inference_model
    from nemo_bielik.pruning.mask_hooks_mcore import MaskedModel

    positions = torch.arange(tokens.size(1)).repeat(len(tokens), 1)
    arch = Checkpoint.open(config.model).arch
    with inference_model(config.model, config.parallel, tokens.size(1)) as (_, model):
        masked = MaskedModel(model, arch, config)
        with masked.attached():
            masked.use(masks)
            return whole_logits(model, tokens, positions)


def loss_and_slopes(
    config: ScoreConfig, masks: dict[str, Tensor], cache: Path
) -> tuple[float, float, dict[str, Tensor]]:
    """Return the mean loss of the first step's text, without and with slopes, and the slopes."""
    from nemo_bielik.megatron.model import inference_model
    from nemo_bielik.pruning.domains_mcore import DomainText
    from nemo_bielik.pruning.mask_hooks_mcore import MaskedModel

    arch = Checkpoint.open(config.model).arch
    with inference_model(config.model, config.parallel, config.sequence_length) as (_, model):
        masked = MaskedModel(model, arch, config)
        batches = DomainText(config, arch.vocab_size, cache).batches(0)
        with masked.attached():
            total, tokens = masked.loss(masks, batches)
            return (total / tokens, *masked.gradients(masks, batches))


def learned(config: ScoreConfig, work: Path) -> dict[str, Any]:
    """Learn for all steps and return the learner's state, whatever shape it reached."""
    from nemo_bielik.megatron.model import inference_model
    from nemo_bielik.pruning.masks_mcore import learn
    from nemo_bielik.pruning.shearing import target_shape

    arch = Checkpoint.open(config.model).arch
    target = target_shape(arch, config.shearing.target)
    with inference_model(config.model, config.parallel, config.sequence_length) as (_, model):
        learner, text = learn(config, arch, target, model, work)
        return {**learner.state(), "weights": text.weights}


def interrupted(config: ScoreConfig, steps: int) -> str:
    """Score until the bar has shown `steps` steps, then be interrupted; say what remains."""
    from nemo_bielik.pruning import masks_mcore

    whole = masks_mcore.progress

    class Interrupted:
        def __init__(self, todo: Any, **settings: Any) -> None:
            self.todo, self.bar = todo, whole(total=len(todo), **settings)

        def __iter__(self) -> Iterator[Any]:
            yield from self.todo[:steps]
            raise KeyboardInterrupt

        def __getattr__(self, name: str) -> Any:
            return getattr(self.bar, name)

    masks_mcore.progress = Interrupted
    try:
        score(config)
    except KeyboardInterrupt:
        return "interrupted"
    finally:
        masks_mcore.progress = whole
    return "finished"
