"""Read a checkpoint that ModelOpt wrote, from its tensors alone, and simulate what servers compute.

Every linear layer with a ``weight_scale`` gets the weights that its packed elements stand for, and
rounds its input at its ``input_scale``, as a server does before the product. Products are computed
in the model's type: the arithmetic is simulated, its rounding is the format's. An FP8 cache for
keys and values is not simulated.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from nemo_bielik.checkpoint import model_shards, read_config
from nemo_bielik.errors import CheckpointError
from nemo_bielik.quantize import fp8, nvfp4

#: What the exporter calls each format in ``hf_quant_config.json``.
ALGORITHMS = {
    "FP8": "fp8",
    "NVFP4": "nvfp4",
    "W4A16_AWQ": "int4-awq",
    "W8A8_SQ_PER_CHANNEL": "int8",
}
_QUANTIZATION = "quantization_config"
_INT8_LARGEST, _INT8_SMALLEST = 127, -128


def read_simulated(directory: Path, dtype: torch.dtype | None = None) -> Any:
    """Return the transformers model of an exported checkpoint, which simulates its format.

    It computes in `dtype`; by default in the type that the model was trained in.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(directory), local_files_only=True)
    kind = exported_format(directory)
    del config.quantization_config  # transformers would look for a quantiser of its own
    tensors = read_tensors(directory)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype or config.dtype)
    own = dict(model.named_parameters())
    stored = {name for name in tensors if not _is_scale(name)}
    if odd := stored ^ set(own):
        raise CheckpointError(
            f"{directory}: tensors missing or unknown: {sorted(odd)[:5]}; quantise the model again"
        )
    for name in stored:
        _fill(own[name], model.get_submodule(name.rpartition(".")[0]), kind, name, tensors)
    return model.eval()


@torch.no_grad()
def _fill(
    parameter: Tensor, module: nn.Module, kind: str, name: str, tensors: dict[str, Tensor]
) -> None:
    """Give a parameter its value, one at a time; a quantised layer's inputs are rounded too."""
    path, _, last = name.rpartition(".")
    if last != "weight" or f"{path}.weight_scale" not in tensors:
        parameter.copy_(tensors[name])
        return
    layer = {
        key.rpartition(".")[2]: values
        for key, values in tensors.items()
        if key.rpartition(".")[0] == path
    }
    parameter.copy_(dequantized(kind, layer))
    scales = {key: values for key, values in layer.items() if key != "weight"}
    module.register_forward_pre_hook(_rounding(kind, scales))


def exported_format(directory: Path) -> str:
    """Return the name of a checkpoint's format; raise `CheckpointError` if it is none of ours."""
    path = directory / "hf_quant_config.json"
    if not path.is_file() or _QUANTIZATION not in read_config(directory):
        raise CheckpointError(f"{directory}: holds no quantised model; make it with ModelOpt")
    algorithm = json.loads(path.read_text(encoding="utf-8"))["quantization"]["quant_algo"]
    if algorithm not in ALGORITHMS:
        raise CheckpointError(
            f"{directory}: is quantised as {algorithm}; known are {', '.join(ALGORITHMS)}"
        )
    return ALGORITHMS[algorithm]


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """Return every tensor of a model directory as it is stored."""
    found: dict[str, Tensor] = {}
    for shard in model_shards(directory):
        with safe_open(shard, framework="pt") as stream:
            found |= {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    return found


def dequantized(kind: str, layer: dict[str, Tensor]) -> Tensor:
    """Return the float32 weight [outputs, inputs] of a layer, given its tensors by last name."""
    weight, scale = layer["weight"], layer["weight_scale"]
    if kind == "fp8":
        return fp8.dequantize(weight, scale)
    if kind == "nvfp4":
        return nvfp4.dequantize(weight, scale, layer["weight_scale_2"])
    if kind == "int8":
        return weight.float() * scale.float().unsqueeze(-1)
    blocks = _unpacked_int4(weight).reshape(*scale.shape, -1)
    values: Tensor = (blocks * scale.unsqueeze(-1)).flatten(-2)
    return values


def _unpacked_int4(packed: Tensor) -> Tensor:
    """Return the values [2 n, inputs] in bytes [n, inputs]: even rows lie in lower halves."""
    rows = torch.stack([packed & 0x0F, packed >> 4], dim=1).flatten(0, 1).to(torch.int8)
    return torch.where(rows < 8, rows, rows - 16).float()


def _rounding(kind: str, layer: dict[str, Tensor]) -> Callable[[nn.Module, Any], Any]:
    """Return the hook that does to a layer's input what comes before the product."""
    smooth, scale = layer.get("pre_quant_scale"), layer.get("input_scale")

    def prepare(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values, *others = arguments
        if smooth is not None:
            values = values * smooth.to(values)
        if scale is not None:
            values = simulate(values, scale.to(values.device))
        return (values, *others)

    simulate = {"fp8": fp8.simulate, "nvfp4": nvfp4.simulate}.get(kind, _int8)
    return prepare


def _int8(values: Tensor, scale: Tensor) -> Tensor:
    elements = (values.float() / scale).round().clamp(_INT8_SMALLEST, _INT8_LARGEST)
    return (elements * scale).to(values.dtype)


def _is_scale(name: str) -> bool:
    return name.rpartition(".")[2] not in ("weight", "bias")
