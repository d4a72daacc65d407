"""A function for the lanes: what a training run reads."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def training_rows(
    train: list[Path], weights: list[float], samples: int, length: int, cache: Path, **more: Any
) -> dict[str, Tensor]:
    """Return the rows that a run of `samples` sequences reads, [samples, length] each field.

    `more` are other settings of `PackedText`.
    """
    from megatron.bridge.training.config import DatasetBuildContext

    from nemo_bielik.megatron.batches import PackedText

    provider = PackedText(
        train=train,
        validation=None,
        cache=cache,
        seq_length=length,
        seed=1,
        samples=samples,
        eval_samples=1,
        vocab_size=48,
        weights=weights,
        **more,
    )
    dataset, _, _ = provider.build_datasets(DatasetBuildContext(samples, 0, 0))
    first = provider.first_sample
    rows = [dataset[number] for number in range(first, first + samples)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
