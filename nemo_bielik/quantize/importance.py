"""The importance matrix: how strongly calibration text drives each column of each matrix.

As llama.cpp's ``llama-imatrix`` defines it: for every matrix the mean, over tokens, of the square
of each of its inputs. The quantiser weighs rounding errors by it. Collected with transformers, so
the model must fit into memory; embeddings and the output layer get none, as there.
"""

from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.evaluate.language_model import LanguageModel
from nemo_bielik.progress import progress
from nemo_bielik.quantize.gguf_tensors import graph
from nemo_bielik.quantize.llama_cpp import Importance


@torch.inference_mode()
def collect_importance(source: Checkpoint, windows: list[list[int]]) -> Importance:
    """Return the mean squares of the inputs of every matrix in the layers, by GGUF name."""
    model = LanguageModel.open(source, len(windows[0])).model
    names = gguf.get_tensor_name_map(graph(source.arch), source.arch.num_layers)
    sums: dict[str, Tensor] = {}

    def watch(name: str, module: Any) -> None:
        def see(_: Any, inputs: tuple[Tensor, ...]) -> None:
            squares = inputs[0].double().square().flatten(0, -2).sum(0)
            sums[name] = sums[name] + squares if name in sums else squares

        module.register_forward_pre_hook(see)

    for path, module in model.model.layers.named_modules(prefix="model.layers"):
        if isinstance(module, torch.nn.Linear):
            watch(f"{names.get_name(path)}.weight", module)
    for window in progress(windows, desc="importance matrix", unit="window"):
        model.model(input_ids=torch.tensor([window], device=model.device), use_cache=False)
    tokens = sum(map(len, windows))
    return {name: (total / tokens).cpu().numpy().astype(np.float32) for name, total in sums.items()}
