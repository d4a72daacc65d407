"""A model as a function from token sequences to their log-probabilities, through transformers.

Attention is causal and padding is on the right, so no token sees any of it, and no attention mask
is needed but for sequences that share their beginning (`nemo_bielik.evaluate.shared_prefix`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.text import Progress
from nemo_bielik.errors import CheckpointError
from nemo_bielik.evaluate.shared_prefix import Batch, Row, Tokens

#: Logits that exist at one time: 64 MB in float32, whatever the vocabulary.
_LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True)
class LanguageModel:
    """A causal model that scores sequences, `tokens_per_batch` (padding included) a forward pass.

    In float32 on a CPU, as it is stored on a GPU; log-probabilities are float32, sums float64.
    """

    directory: Path
    model: Any
    tokens_per_batch: int

    @classmethod
    def open(cls, checkpoint: Checkpoint, tokens_per_batch: int) -> "LanguageModel":
        """Load a validated checkpoint from its files alone, on a GPU if there is one."""
        from transformers import AutoModelForCausalLM

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForCausalLM.from_pretrained(
            str(checkpoint.directory),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype="auto" if device == "cuda" else torch.float32,
        )
        return cls(checkpoint.directory, model.eval().to(device), tokens_per_batch)

    @torch.inference_mode()
    def log_probs(
        self, groups: Sequence[Sequence[Tokens]], progress: Progress | None = None
    ) -> list[list[float]]:
        """Return Σ log P(token | those before it) of each sequence of each group.

        The sum is over all tokens but the first. Sequences have two tokens or more; those of a
        group have the first in common, and what they have in common is computed once. `progress`
        is called with the number of sequences done. Raises `CheckpointError` if the model's output
        is not finite.
        """
        rows = [Row.of(group) for group in groups]
        found: list[list[float]] = [[] for _ in rows]
        for places in batches_of([len(row.tokens) for row in rows], self.tokens_per_batch):
            batch = [rows[place] for place in places]
            for place, sums in zip(places, self._batch_log_probs(batch), strict=True):
                found[place] = sums
            if progress:
                progress(sum(row.members for row in batch))
        return found

    def _batch_log_probs(self, rows: Sequence[Row]) -> list[list[float]]:
        batch = Batch.of(rows, self.model.device)
        mask = batch.mask(getattr(self.model.config, "sliding_window", None))
        packed = {} if mask is None else {"attention_mask": mask, "position_ids": batch.positions}
        output = self.model.model(input_ids=batch.tokens, use_cache=False, **packed)
        hidden = output.last_hidden_state.flatten(0, 1)[batch.sources]
        scores = self._token_log_probs(hidden, batch.targets).double()
        if not bool(torch.isfinite(scores).all()):
            raise CheckpointError(
                f"{self.directory}: gives probabilities that are not numbers; its weights are "
                "damaged or its training diverged"
            )
        sizes = [row.members + 1 for row in rows]
        sums = scores.new_zeros(sum(sizes)).index_add_(0, batch.owners, scores)
        parts = torch.split(sums, sizes)
        return [row.log_probs(part.tolist()) for row, part in zip(rows, parts, strict=True)]

    def _token_log_probs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return log P(targets), [n], of hidden states [n, h]; the logits are never held whole."""
        rows = max(1, _LOGITS_AT_ONCE // self.model.config.vocab_size)
        parts = zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
        return torch.cat(
            [
                -cross_entropy(self.model.lm_head(states).float(), wanted, reduction="none")
                for states, wanted in parts
            ]
        )


def batches_of(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Yield places of sequences of like length; with its padding, a batch has at most `limit`."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    start = 0
    while start < len(order):
        count = max(1, limit // lengths[order[start]])
        yield order[start : start + count]
        start += count
