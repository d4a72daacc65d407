"""The stage for servers: a model directory and calibration tokens in, a quantised one out."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nemo_bielik import stages
from nemo_bielik.checkpoint import Checkpoint, copy_tokenizer
from nemo_bielik.checks import check_choices
from nemo_bielik.data.indexed import token_stats
from nemo_bielik.data.sources import tokens_fingerprint
from nemo_bielik.errors import ConfigError
from nemo_bielik.files import require_space
from nemo_bielik.manifest import Manifest
from nemo_bielik.peak_memory import PeakMemory
from nemo_bielik.quantize.calibration import calibration_windows, check_length
from nemo_bielik.quantize.modelopt_formats import ServerFormat, find_format
from nemo_bielik.quantize.modelopt_layers import LayerChoice, PrecisionConfig, choose_layers
from nemo_bielik.quantize.modelopt_memory import (
    CalibrationMemory,
    calibration_memory,
    output_bytes,
    require_memory,
)

#: Names that a line shows of layers that a format cannot hold; the manifest has all.
_NAMES_SHOWN = 3


@dataclass(kw_only=True)
class QuantizeServerConfig(PrecisionConfig):
    """Quantise `model` with ModelOpt into what vLLM or TensorRT-LLM serves.

    Scales come from calibration text. Embeddings and the output layer stay as they are.
    """

    model: Path = field(metadata={"help": "model directory to quantise"})
    data: Path = field(metadata={"help": "calibration tokens made by `bielik tokenize`"})
    output: Path = field(metadata={"help": "directory to make"})
    kv_cache: Literal["none", "fp8"] = field(
        default="none", metadata={"help": "fp8: scales for keys and values are calibrated too"}
    )
    samples: int = field(default=512, metadata={"help": "calibration sequences"})
    sequence_length: int = field(default=512, metadata={"help": "tokens a sequence"})
    batch_size: int = field(default=1, metadata={"help": "sequences a forward pass"})
    seed: int = field(default=1, metadata={"help": "which sequences are drawn"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        for name in ("samples", "sequence_length", "batch_size", "seed"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class Preparation:
    """What is known of a quantisation before the model is loaded."""

    checkpoint: Checkpoint
    kind: ServerFormat
    layers: LayerChoice
    memory: CalibrationMemory
    output_bytes: int
    manifest: Manifest


def quantize_checkpoint(config: QuantizeServerConfig) -> None:
    """Calibrate `config.model` and write it, quantised, as `config.output`.

    Raises `ConfigError`, `DataError`, `CheckpointError` or `StorageError` for layers or text that
    do not fit, a damaged model, too little memory, and a taken or full output.
    """
    started = time.monotonic()
    prepared = prepare(config)
    if stages.is_done(config.output, prepared.manifest):
        print(f"{config.output}: already done")
        return
    require_space(config.output, prepared.output_bytes)
    windows = calibration_windows(
        config.data,
        config.samples,
        config.sequence_length,
        prepared.checkpoint.arch.vocab_size,
        config.seed,
    )
    require_memory(prepared.memory)

    from nemo_bielik.quantize import modelopt

    results = _figures(config, prepared) | {"arithmetic": f"simulated on {modelopt.device()}"}
    with (
        stages.stage_output(config.output, prepared.manifest, results, started) as scratch,
        PeakMemory() as memory,
    ):
        model = modelopt.calibrate(
            modelopt.load_model(config.model),
            prepared.kind,
            prepared.layers,
            config.kv_cache == "fp8",
            windows,
            config.batch_size,
        )
        modelopt.export(model, scratch)
        copy_tokenizer(config.model, scratch)
        results["peak_memory_bytes"] = modelopt.peak_bytes() or memory.peak_bytes
        results["bytes"] = sum(path.stat().st_size for path in scratch.glob("*.safetensors"))
    print(f"{config.output}: {results['bytes']:,} bytes; {results['arithmetic']}")
    print("\n".join(_layer_lines(prepared)))


def describe(config: QuantizeServerConfig) -> list[str]:
    """Return the lines that ``--dry-run`` adds: layers, memory and bytes."""
    prepared = prepare(config)
    done = stages.is_done(config.output, prepared.manifest)
    state = "already done" if done else f"about {prepared.output_bytes:,} bytes to write"
    memory = prepared.memory
    return [
        *_layer_lines(prepared),
        f"calibration needs about {memory.total / 1e9:.2f} GB: weights {memory.weights / 1e9:.2f}, "
        f"working memory {memory.working / 1e9:.2f}, programs {memory.program / 1e9:.2f}",
        f"{config.output}: {state}",
    ]


def prepare(config: QuantizeServerConfig) -> Preparation:
    """Check model, layers and text; this loads no weights."""
    checkpoint = Checkpoint.open(config.model)
    if config.sequence_length > checkpoint.arch.max_position_embeddings:
        raise ConfigError(
            f"sequence_length is {config.sequence_length}; {config.model} knows "
            f"{checkpoint.arch.max_position_embeddings} positions"
        )
    kind = find_format(config.format)
    layers = choose_layers(checkpoint.arch, config)
    inputs = {"model": checkpoint.fingerprint(), "data": tokens_fingerprint(config.data)}
    check_length(config.data, token_stats(config.data)[1], config.samples, config.sequence_length)
    return Preparation(
        checkpoint=checkpoint,
        kind=kind,
        layers=layers,
        memory=calibration_memory(checkpoint, config.batch_size * config.sequence_length, layers),
        output_bytes=output_bytes(checkpoint, kind, layers),
        manifest=stages.describe("quantize-server", config, inputs, config.seed),
    )


def _figures(config: QuantizeServerConfig, prepared: Preparation) -> dict[str, Any]:
    return {
        "format": prepared.kind.name,
        "quantized_layers": len(prepared.layers.quantized),
        "kept_layers": prepared.layers.kept,
        "calibration_tokens": config.samples * config.sequence_length,
        "predicted_memory_bytes": prepared.memory.total,
    }


def _layer_lines(prepared: Preparation) -> list[str]:
    layers = prepared.layers
    total = len(layers.quantized) + len(layers.kept)
    lines = [f"{len(layers.quantized)} of {total} linear layers in {prepared.kind.name}"]
    by_reason: dict[str, list[str]] = {}
    for name, why in layers.unfit.items():
        by_reason.setdefault(why, []).append(name)
    for why, names in by_reason.items():
        shown = ", ".join(names[:_NAMES_SHOWN])
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        dtype = prepared.checkpoint.tensors[f"{names[0]}.weight"].dtype
        lines.append(f"kept in {dtype}: {shown}{more}: {why}")
    return lines
