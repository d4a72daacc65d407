"""What a server's format costs: its exported numbers, simulated, beside the unquantised model."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.evaluate.language_model import LanguageModel
from nemo_bielik.progress import progress
from nemo_bielik.quantize.inputs import Inputs
from nemo_bielik.quantize.measure import Fidelity, log_softmax
from nemo_bielik.quantize.modelopt_reader import read_simulated

_SENTENCES_AT_ONCE = 8


def compare_simulated(
    source: Checkpoint, directories: dict[str, Path], inputs: Inputs
) -> dict[str, dict[str, float]]:
    """Return the figures of the unquantised model (``"base"``) and of each exported checkpoint.

    One model is in memory at a time, and the logits of the unquantised one.
    """
    tokens = _SENTENCES_AT_ONCE * inputs.longest
    base = LanguageModel.open(source, tokens)
    expected = [_logits(base.model, window) for window in inputs.held_out]
    found = {"base": _figures(base, expected, inputs)}
    device, dtype = base.model.device, base.model.dtype
    del base
    for name, directory in progress(directories.items(), desc="measuring", unit="format"):
        simulated = read_simulated(directory, dtype).to(device)
        found[name] = _figures(LanguageModel(directory, simulated, tokens), expected, inputs)
        del simulated
    return found


def _figures(
    model: LanguageModel, expected: list[NDArray[np.float32]], inputs: Inputs
) -> dict[str, float]:
    sums = Fidelity()
    for window, logits in zip(inputs.held_out, expected, strict=True):
        own = log_softmax(_logits(model.model, window))[:-1]
        sums.add(log_softmax(logits)[:-1], own, window[1:])
    return {**sums.figures(), **inputs.scores(model)}


@torch.inference_mode()
def _logits(model: Any, window: list[int]) -> NDArray[np.float32]:
    """Return the logits after each token, [tokens, vocabulary]."""
    ids = torch.tensor([window], device=model.device)
    logits: NDArray[np.float32] = (
        model(input_ids=ids, use_cache=False).logits[0].float().cpu().numpy()
    )
    return logits
