"""Calibrate a model with ModelOpt and write it as servers read it.

ModelOpt puts a quantiser before every weight and every input. Calibration text shows each the
largest value it meets (SmoothQuant and AWQ: per channel), which fixes its scale. From then on the
model computes in the type it was loaded in, on values rounded as the format would: simulated
arithmetic, on a GPU too. The exporter packs the weights and writes the scales beside them.
"""

import contextlib
import copy
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import numpy as np
import torch
from modelopt.torch.export import export_hf_checkpoint
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from nemo_bielik.checkpoint import disk_errors
from nemo_bielik.progress import progress
from nemo_bielik.quantize.modelopt_formats import ServerFormat
from nemo_bielik.quantize.modelopt_layers import LayerChoice
from nemo_bielik.quantize.upstream_fixes import PLAIN_NVFP4, nvfp4_without_cuda


def device() -> str:
    """Return where models are calibrated: "cuda" or "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def write_checkpoint(
    source: Path,
    output: Path,
    kind: ServerFormat,
    layers: LayerChoice,
    windows: Sequence[Sequence[int]],
    quantize_cache: bool = False,
    batch_size: int = 1,
) -> None:
    """Calibrate the model of `source` on `windows` and write it, quantised, into `output`.

    Args:
        output: an existing directory.
        windows: token ids, all of one length.
    """
    tokens = np.array(windows, np.int64)
    model = calibrate(load_model(source), kind, layers, quantize_cache, tokens, batch_size)
    export(model, output)


def load_model(directory: Path) -> Any:
    """Return the model of `directory` in the type that it is stored in."""
    model = AutoModelForCausalLM.from_pretrained(
        str(directory),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype="auto",
    )
    return model.eval().to(device())


@torch.no_grad()
def calibrate(
    model: Any,
    kind: ServerFormat,
    layers: LayerChoice,
    quantize_cache: bool,
    windows: NDArray[Any],
    batch_size: int,
) -> Any:
    """Return `model` with calibrated quantisers in `layers`: from now on it is simulated.

    Args:
        quantize_cache: whether keys and values are rounded to FP8 too.
        windows: token ids [samples, sequence_length].
    """

    def show(quantized: Any) -> None:
        for batch in progress(batches, desc="calibrating", unit="batch"):
            quantized(input_ids=batch.to(device()), use_cache=False)

    batches = torch.split(torch.from_numpy(windows), batch_size)
    with _quietly(), nvfp4_without_cuda():
        return mtq.quantize(model, quantizer_settings(kind, layers, quantize_cache), show)


def quantizer_settings(
    kind: ServerFormat, layers: LayerChoice, quantize_cache: bool
) -> dict[str, Any]:
    """Return ModelOpt's configuration of `kind`, with `layers.kept` left out of it."""
    settings: dict[str, Any] = copy.deepcopy(getattr(mtq, kind.modelopt))
    rules = settings["quant_cfg"]
    if kind.name == "nvfp4" and device() == "cpu":
        for which in ("*weight_quantizer", "*input_quantizer"):
            rules[which] = {**rules[which], "backend": PLAIN_NVFP4}
    for name in layers.kept:
        for which in ("weight_quantizer", "input_quantizer"):
            rules[f"{name}.{which}"] = {"enable": False}
    if quantize_cache:
        rules["*[kv]_bmm_quantizer"] = mtq.FP8_KV_CFG["quant_cfg"]["*[kv]_bmm_quantizer"]
    return settings


@torch.inference_mode()
def export(model: Any, output: Path) -> None:
    """Write a calibrated `model`, which it uses up, as a unified Hugging Face checkpoint.

    Args:
        output: an existing directory.
    """
    with _quietly(), nvfp4_without_cuda(), disk_errors(output):
        export_hf_checkpoint(model, export_dir=output)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep the notes of ModelOpt and transformers to them; the terminal keeps the progress bar."""
    usual = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            transformers_logging.set_verbosity(usual)
