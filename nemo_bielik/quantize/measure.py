"""What a quantised file costs: its predictions beside the unquantised file's, both in llama.cpp."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.progress import progress
from nemo_bielik.quantize.llama_cpp import LlamaModel

_PROMPT_TOKENS, _WRITTEN_TOKENS = 16, 32
Float64 = NDArray[np.float64]


@dataclass
class Fidelity:
    """Sums over predicted tokens, which add up window by window.

    Attributes:
        nats: −Σ log P(next token).
        divergence: Σ KL(unquantised ‖ quantised) of the predicted distributions, in nats.
        agreements: predictions whose likeliest token is the unquantised model's.
    """

    tokens: int = 0
    nats: float = 0.0
    divergence: float = 0.0
    agreements: int = 0

    def add(self, reference: Float64, found: Float64, targets: Sequence[int]) -> None:
        """Add a window: log-probabilities [tokens, vocabulary] of both, and the tokens to come."""
        self.tokens += len(targets)
        self.nats -= float(found[np.arange(len(targets)), targets].sum())
        self.divergence += float((np.exp(reference) * (reference - found)).sum())
        self.agreements += int((reference.argmax(1) == found.argmax(1)).sum())

    def figures(self) -> dict[str, float]:
        """Return perplexity, mean KL in nats, and the share of agreeing likeliest tokens."""
        return {
            "perplexity": float(np.exp(self.nats / self.tokens)),
            "kl": self.divergence / self.tokens,
            "top1_agreement": self.agreements / self.tokens,
        }


def log_softmax(logits: NDArray[Any]) -> Float64:
    """Return log-probabilities along the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    found: Float64 = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def compare_files(
    base: Path, files: dict[str, Path], windows: Sequence[Sequence[int]], threads: int = 0
) -> dict[str, dict[str, float]]:
    """Return the figures of `base` (as ``"base"``) and of each file, with tokens/s of writing.

    All files are mapped at the same time, so that the unquantised model runs once.
    """
    context = max(len(windows[0]), _PROMPT_TOKENS + _WRITTEN_TOKENS)
    models = {name: LlamaModel(path, context, threads) for name, path in files.items()}
    reference = LlamaModel(base, context, threads)
    sums = {name: Fidelity() for name in ("base", *files)}
    for window in progress(windows, desc="measuring", unit="window"):
        expected = log_softmax(reference.logits(window))[:-1]
        sums["base"].add(expected, expected, window[1:])
        for name, model in models.items():
            sums[name].add(expected, log_softmax(model.logits(window))[:-1], window[1:])
    found = {name: one.figures() for name, one in sums.items()}
    for name, model in {"base": reference, **models}.items():
        _, speed = model.generate(windows[0][:_PROMPT_TOKENS], _WRITTEN_TOKENS)
        found[name]["tokens_per_second"] = speed
        model.close()
    return found
