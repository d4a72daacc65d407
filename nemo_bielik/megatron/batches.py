"""Packed text as batches in which no document sees another.

Documents lie back to back in Megatron's ``.bin/.idx`` and are cut at the ends of sequences, or come
whole (`packing.py`); either way position ids start again at each of them, and the attention mask
follows from that. Shapes: [b, s] throughout, b sequences of s tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from megatron.bridge.training.config import DatasetBuildContext, DatasetProvider, GPTDatasetConfig
from megatron.core import parallel_state
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor
from torch.utils.data import Dataset

from nemo_bielik.data.indexed import has_loss, token_stats
from nemo_bielik.data.sources import Packing, end_of_document
from nemo_bielik.errors import ConfigError
from nemo_bielik.megatron.context_parallel import own_mask, own_part
from nemo_bielik.megatron.model import HAS_TRANSFORMER_ENGINE
from nemo_bielik.megatron.packing import (
    After,
    Blend,
    WholeDocuments,
    WholeEpochs,
    whole_documents,
)


@dataclass(frozen=True)
class Batch:
    """One micro-batch; `loss_mask` is 0 where the next token is not to be learned.

    It begins another document, is not the assistant's, or is padding. Where ranks share each
    sequence all of it is this rank's part, `mask` says which tokens of the whole it may see, and
    `shared` is the whole.
    """

    tokens: Tensor
    labels: Tensor
    loss_mask: Tensor
    position_ids: Tensor
    mask: Tensor | None = None
    shared: "Batch | None" = None

    @property
    def whole(self) -> "Batch":
        """The micro-batch with all tokens of its sequences."""
        return self.shared or self

    def model_inputs(self) -> dict[str, Any]:
        """Return GPTModel's arguments: THD packing on Transformer Engine, a dense mask elsewhere.

        Both say the same: causal within a document, nothing across documents.
        """
        mask = self.mask
        if mask is None and not HAS_TRANSFORMER_ENGINE:
            mask = document_mask(self.position_ids)
        if mask is not None:
            return {
                "input_ids": self.tokens,
                "position_ids": self.position_ids,
                "attention_mask": mask,
            }
        return {
            "input_ids": self.tokens.reshape(1, -1),
            "position_ids": self.position_ids.reshape(1, -1),
            "attention_mask": None,
            "packed_seq_params": packed_sequences(self.position_ids),
        }


def require_packable(micro_batch_size: int, pipeline: int, per_sample: bool = False) -> None:
    """Raise `ConfigError` where sequences laid end to end would not be told apart again.

    Transformer Engine gets a micro-batch as one packed row: pipeline stages expect [s, b, h], and
    per-sample statistics (`per_sample`) need the samples.
    """
    if HAS_TRANSFORMER_ENGINE and micro_batch_size > 1 and (pipeline > 1 or per_sample):
        raise ConfigError(
            f"micro_batch_size is {micro_batch_size}; with Transformer Engine it must be 1 here, "
            "because sequences are packed into one row; use longer sequences instead"
        )


def document_mask(position_ids: Tensor) -> Tensor:
    """Return [b, 1, s, s], True where query row must NOT see key column."""
    documents = (position_ids == 0).cumsum(dim=1)
    other = documents.unsqueeze(2) != documents.unsqueeze(1)
    length = position_ids.size(1)
    future = torch.ones(length, length, dtype=torch.bool, device=position_ids.device).triu(1)
    return (other | future).unsqueeze(1)


def packed_sequences(position_ids: Tensor) -> PackedSeqParams:
    """Return the document boundaries of a batch laid end to end, [b · s]."""
    flat = position_ids.reshape(-1)
    starts = torch.nonzero(flat == 0).squeeze(1)
    edges = torch.cat([starts, starts.new_tensor([flat.numel()])]).to(torch.int32)
    longest = int((edges[1:] - edges[:-1]).max())
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=edges,
        cu_seqlens_kv=edges,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )


def next_batch(data_iterator: Iterator[dict[str, Tensor]]) -> Batch:
    """Take one micro-batch; every pipeline stage reads the same one, context ranks their parts."""
    item = next(data_iterator)

    def rows(name: str) -> Tensor:
        return item[name].cuda(non_blocking=True)

    whole = Batch(rows("tokens"), rows("labels"), rows("loss_mask"), rows("position_ids"))
    if parallel_state.get_context_parallel_world_size() == 1:
        return whole
    return Batch(
        own_part(whole.tokens),
        own_part(whole.labels),
        own_part(whole.loss_mask),
        own_part(whole.position_ids),
        own_mask(whole.position_ids),
        whole,
    )


class _Repeated(Dataset[Any]):
    """The first `size` samples over and over, so that every validation sees the same ones."""

    def __init__(self, dataset: Dataset[Any], size: int, length: int) -> None:
        self.dataset, self.size, self.length = dataset, size, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index % self.size]


@dataclass(frozen=True)
class _EndOfDocument:
    """All that Megatron's dataset asks of a tokenizer, since the text is tokens already."""

    eod: int
    vocab_size: int
    pad: int = -1  # nothing is padded; an id of the vocabulary would drop its tokens from the loss

    @property
    def unique_identifiers(self) -> dict[str, int]:
        return {"eod": self.eod, "vocab_size": self.vocab_size}


class _Documents(Dataset[Any]):
    """Megatron's packed sequences with position ids that start again at each document.

    `GPTDataset` can do that itself, in a Python loop over the documents that costs a tenth of a
    small model's step.
    """

    def __init__(self, dataset: GPTDataset, end_of_document: int) -> None:
        self.dataset, self.end_of_document = dataset, end_of_document

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item: dict[str, Tensor] = self.dataset[index]
        places = torch.arange(item["tokens"].numel())
        begins = torch.zeros_like(places)
        begins[1:] = places[1:] * (item["tokens"][:-1] == self.end_of_document)
        return {**item, "position_ids": places - begins.cummax(dim=0).values}


def packed_dataset(
    tokens: Path,
    samples: int,
    length: int,
    seed: int,
    vocab_size: int,
    cache: Path,
    packing: Packing = "auto",
) -> Dataset[Any]:
    """Return at least `samples` sequences of `length` tokens drawn from a directory of tokens.

    Index files go to `cache`, which every rank must see.
    """
    if packing == "whole" or (packing == "auto" and has_loss(tokens)):
        return whole_documents(tokens, samples, length, seed, cache)
    return _cut_documents(tokens, samples, length, seed, vocab_size, cache)


def _cut_documents(
    tokens: Path, samples: int, length: int, seed: int, vocab_size: int, cache: Path
) -> Dataset[Any]:
    ending = end_of_document(tokens)
    config = GPTDatasetConfig(
        seq_length=length,
        random_seed=seed,
        blend=([str(tokens / "tokens")], None),
        split="1",
        path_to_cache=str(cache),
        tokenizer=_EndOfDocument(ending, vocab_size),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=True,
        create_attention_mask=False,
        num_dataset_builder_threads=1,
    )
    config.finalize()
    builder = BlendedMegatronDatasetBuilder(GPTDataset, [samples, 0, 0], lambda: True, config)
    return _Documents(builder.build()[0], ending)


@dataclass(kw_only=True)
class PackedText(DatasetProvider):
    """Training and validation text from directories made by ``bielik tokenize``.

    `samples` sequences are trained on, behind `first_sample` others that earlier phases have read;
    `weights` are the shares of them from each directory of `train` (empty: by its tokens).
    `eval_samples` sequences are one validation. With `epochs` and without weights every document
    of `train` is read so many times, no more and no less; the last batch is filled with padding.
    """

    train: list[Path]
    validation: Path | None
    cache: Path
    seq_length: int
    seed: int
    samples: int
    eval_samples: int
    vocab_size: int
    weights: list[float] = field(default_factory=list)
    packing: Packing = "auto"
    first_sample: int = 0
    epochs: int = 0

    def build_datasets(self, context: DatasetBuildContext) -> tuple[Any, Any, None]:
        """Build what Bridge asks for; index files go to `cache`."""
        train = After(self.training(), self.first_sample, self.samples)
        held_out = self.held_out() if context.valid_samples else None
        if held_out is None:
            return train, None, None
        # validations of earlier phases count too: at most one a step, `eval_samples` a batch
        length = context.valid_samples + self.first_sample * self.eval_samples
        return train, _Repeated(held_out, self.eval_samples, length), None

    def held_out(self) -> Dataset[Any] | None:
        """Return at least `eval_samples` rows, the same ones for every validation."""
        return None if self.validation is None else self._build(self.validation, self.eval_samples)

    def training(self) -> Dataset[Any]:
        """Return at least `samples` rows, in the order in which they are read."""
        if self.epochs and not self.weights:
            return WholeEpochs(self.whole_epochs(), self.samples)
        if len(self.train) == 1:
            return self._build(self.train[0], self.samples)
        weights = self.weights or [float(token_stats(tokens)[1]) for tokens in self.train]
        return Blend(lambda n, rows: self._build(self.train[n], rows), weights, self.samples)

    def whole_epochs(self) -> list[WholeDocuments]:
        """Return the rows of all epochs, one dataset a directory of `train`."""
        return [
            whole_documents(tokens, 0, self.seq_length, self.seed, self.cache, self.epochs)
            for tokens in self.train
        ]

    def _build(self, tokens: Path, samples: int) -> Dataset[Any]:
        return packed_dataset(
            tokens, samples, self.seq_length, self.seed, self.vocab_size, self.cache, self.packing
        )
