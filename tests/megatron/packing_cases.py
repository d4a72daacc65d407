"""Functions for the lanes: what a training run reads; they return plain values."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def training_rows(
    train: list[Path], weights: list[float], samples: int, length: int, cache: Path, **more: Any
) -> Tensor:
    """Return the token rows that a run of `samples` sequences reads, [samples, length]."""
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
    return torch.stack([dataset[n]["tokens"] for n in range(first, first + samples)])


def epoch_rows(
    train: list[Path], weights: list[float], epochs: int, samples: int, length: int, cache: Path
) -> dict[str, Tensor]:
    """Return all rows of a run of whole epochs, [samples, length] each field."""
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
        epochs=epochs,
    )
    dataset, _, _ = provider.build_datasets(DatasetBuildContext(samples, 0, 0))
    rows = [dataset[number] for number in range(samples)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
