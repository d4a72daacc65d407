"""What a format costs: its predictions beside the unquantised model's, run by the same program."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.progress import progress
from nemo_bielik.quantize.inputs import Inputs
from nemo_bielik.quantize.llama_cpp import LlamaModel, run_alone

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
        if not self.tokens:
            return {}
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
    base: Path, files: dict[str, Path], inputs: Inputs, threads: int = 0
) -> dict[str, dict[str, float]]:
    """Return the figures of `base` (as ``"base"``) and of each file, with tokens/s and memory.

    All files are mapped at the same time, so that the unquantised model runs once.
    """
    paths = {"base": base, **files}
    models = {name: LlamaModel(path, inputs.longest, threads) for name, path in paths.items()}
    sums = {name: Fidelity() for name in models}
    for window in progress(inputs.held_out, desc="measuring", unit="window"):
        expected = log_softmax(models["base"].logits(window))[:-1]
        for name, model in models.items():
            own = expected if name == "base" else log_softmax(model.logits(window))[:-1]
            sums[name].add(expected, own, window[1:])
    found = {}
    for name, model in models.items():
        found[name] = {**sums[name].figures(), **inputs.scores(model)}
        model.close()
    for name, path in paths.items():
        found[name] |= run_alone(path, threads)
    return found
