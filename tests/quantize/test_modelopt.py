"""What ModelOpt writes: the exported numbers alone give the simulated model back."""

import copy
import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import modelopt.torch.quantization as mtq
import pytest
import torch
from modelopt.torch.export.unified_export_hf import requantize_resmooth_fused_llm_layers

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import CheckpointError
from nemo_bielik.quantize import fp8, modelopt, nvfp4
from nemo_bielik.quantize.modelopt_formats import FORMATS, find_format
from nemo_bielik.quantize.modelopt_layers import PrecisionConfig, choose_layers
from nemo_bielik.quantize.modelopt_reader import exported_format, read_simulated, read_tensors
from nemo_bielik.quantize.upstream_fixes import nvfp4_without_cuda

#: Mean difference of the logits, as a share of what the format does to them. Where ModelOpt's
#: simulation multiplies by a reciprocal and its exporter divides, numbers differ in their last bit,
#: and an input beside a tie falls the other way; INT8's smoothed inputs do so most.
TOLERANCE = {"fp8": 0.02, "nvfp4": 0.0001, "int4-awq": 0.0001, "int8": 0.5}
JOINED = [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")]


class Exported:
    """One format's export of the wide model, and the logits of the simulated model before it."""

    def __init__(self, name: str, model: Path, windows: Any, directory: Path) -> None:
        layers = choose_layers(
            Checkpoint.open(model).arch, PrecisionConfig(format=name, keep_last=1)
        )
        self.text = torch.from_numpy(windows[:4])
        self.directory = directory
        plain = modelopt.load_model(model)
        self.plain = logits(plain, self.text)
        simulated = modelopt.calibrate(plain, find_format(name), layers, True, windows, 4)
        self.joined = as_exported(simulated)
        self.simulated = logits(self.joined, self.text)
        modelopt.export(simulated, directory)
        self.tensors = read_tensors(directory)


def as_exported(simulated: Any) -> Any:
    """Return a copy after the exporter's first step, which gives what servers join one scale.

    Keys and values are not rounded in it, because our reader leaves the cache as it is.
    """
    joined = copy.deepcopy(simulated)
    with nvfp4_without_cuda():
        requantize_resmooth_fused_llm_layers(joined)
    mtq.disable_quantizer(joined, "*[kv]_bmm_quantizer")
    return joined


@torch.no_grad()
def logits(model: Any, text: torch.Tensor) -> torch.Tensor:
    return model(input_ids=text, use_cache=False).logits


@pytest.fixture(scope="module")
def exported(wide_model, calibration, tmp_path_factory):
    made: dict[str, Exported] = {}

    def get(name: str) -> Exported:
        if name not in made:
            directory = tmp_path_factory.mktemp(name)
            made[name] = Exported(name, wide_model, calibration, directory)
        return made[name]

    return get


@pytest.fixture(scope="module")
def original(wide_model):
    return read_tensors(wide_model)


@pytest.mark.parametrize("name", FORMATS)
def test_the_exported_numbers_reproduce_the_simulated_model(exported, name):
    export = exported(name)
    found = logits(read_simulated(export.directory), export.text)
    rounding = (export.simulated - export.plain).abs().mean()
    difference = (found - export.simulated).abs().mean()
    assert exported_format(export.directory) == name
    assert rounding > 0.001
    assert difference < TOLERANCE[name] * rounding


@pytest.mark.parametrize("name", FORMATS)
def test_every_layer_computes_what_the_simulated_one_does(exported, name):
    export = exported(name)
    read = read_simulated(export.directory)
    generator = torch.Generator().manual_seed(0)
    for path, layer in export.joined.named_modules():
        if not hasattr(layer, "weight_quantizer") or f"{path}.weight_scale" not in export.tensors:
            continue
        inputs = torch.randn(64, layer.in_features, generator=generator)
        with torch.no_grad():
            wanted, found = layer(inputs), read.get_submodule(path)(inputs)
        assert (found - wanted).abs().mean() < 1e-3 * wanted.abs().mean(), path


def test_nvfp4_bytes_are_those_of_the_plain_reference(exported, original):
    tensors = exported("nvfp4").tensors
    for layer in ("model.layers.0", "model.layers.1"):
        for names in [*JOINED, ("o_proj",), ("down_proj",)]:
            part = "mlp" if names[0] in ("gate_proj", "down_proj") else "self_attn"
            paths = [f"{layer}.{part}.{name}" for name in names]
            together = torch.cat([original[f"{path}.weight"] for path in paths])
            scale = nvfp4.tensor_scale(together)  # one for what servers join
            for path in paths:
                packed, scales = nvfp4.quantize(original[f"{path}.weight"], scale)
                assert torch.equal(tensors[f"{path}.weight"], packed)
                assert tensors[f"{path}.weight_scale"].dtype == torch.float8_e4m3fn
                assert torch.equal(
                    tensors[f"{path}.weight_scale"].view(torch.uint8), scales.view(torch.uint8)
                )
                assert tensors[f"{path}.weight_scale_2"] == scale


def test_fp8_elements_are_those_of_the_plain_reference(exported, original):
    tensors = exported("fp8").tensors
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        scale = tensors[f"{name}.weight_scale"]
        assert scale == fp8.tensor_scale(original[f"{name}.weight"])
        elements = fp8.quantize(original[f"{name}.weight"], scale)
        assert torch.equal(tensors[f"{name}.weight"].view(torch.uint8), elements.view(torch.uint8))


def test_the_caches_scales_are_the_largest_keys_and_values(exported, wide_model, calibration):
    """Of the last layer, whose weights are kept: transformers' cache holds the same keys."""
    text = torch.from_numpy(calibration)
    model = modelopt.load_model(wide_model)
    with torch.no_grad():
        cache = model(input_ids=text, use_cache=True).past_key_values
    tensors = exported("fp8").tensors
    first = cache.layers[0]
    for name, values in (("k_proj.k_scale", first.keys), ("v_proj.v_scale", first.values)):
        scale = tensors[f"model.layers.0.self_attn.{name}"]
        torch.testing.assert_close(scale, values.abs().max() / 448, rtol=0.02, atol=0)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_kept_is_untouched_and_servers_are_told(exported, original, name):
    export = exported(name)
    described = json.loads((export.directory / "hf_quant_config.json").read_text())
    excluded = described["quantization"]["exclude_modules"]
    config = json.loads((export.directory / "config.json").read_text())["quantization_config"]
    assert config["ignore"] == excluded
    assert described["quantization"]["kv_cache_quant_algo"] == "FP8"
    modules = [path.removesuffix(".weight") for path in original if "norm" not in path]
    for module in modules:
        kept = any(fnmatchcase(module, pattern) for pattern in excluded)
        if module == "model.embed_tokens":
            continue
        assert kept == ("layers.2." in module or module == "lm_head"), module
        assert (f"{module}.weight_scale" in export.tensors) != kept
        if kept:
            assert torch.equal(export.tensors[f"{module}.weight"], original[f"{module}.weight"])


def test_the_second_layer_is_not_taken_for_the_eleventh(make_model, calibration, tmp_path):
    small = make_model("llama", num_hidden_layers=11, hidden_size=16, head_dim=4)
    config = PrecisionConfig(format="fp8", keep=["model.layers.1.*"])
    layers = choose_layers(Checkpoint.open(small).arch, config)
    windows = calibration[:2, :8]
    model = modelopt.load_model(small)
    modelopt.export(
        modelopt.calibrate(model, find_format("fp8"), layers, False, windows, 2), tmp_path
    )
    described = json.loads((tmp_path / "hf_quant_config.json").read_text())["quantization"]
    for name in layers.quantized:
        assert not any(fnmatchcase(name, pattern) for pattern in described["exclude_modules"])
    for name in layers.kept:
        assert any(fnmatchcase(name, pattern) for pattern in described["exclude_modules"])


def test_the_reader_refuses_what_is_not_quantised(wide_model):
    with pytest.raises(CheckpointError, match="holds no quantised model"):
        read_simulated(wide_model)
