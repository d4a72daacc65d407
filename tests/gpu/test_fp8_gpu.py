"""On one GPU with FP8 tensor cores: an exported checkpoint's real products are the simulated ones.

H100, H200 and later multiply E4M3 by E4M3 and add in float32. The exported elements and scales go
into that product as they lie in the file; what is simulated multiplies their float32 values.
"""

import pytest
import torch

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.quantize import fp8, nvfp4
from nemo_bielik.quantize.modelopt_formats import find_format
from nemo_bielik.quantize.modelopt_layers import PrecisionConfig, choose_layers

_CAPABLE = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not _CAPABLE, reason="no CUDA device with FP8 products here"),
]
#: The hardware's sums over rows of 256 keep fewer bits than float32's.
TOLERANCE = 2e-3
WIDE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}


@pytest.fixture(scope="module")
def exported(make_model, tmp_path_factory):
    """Return (directory, tensors) of an FP8 checkpoint that was calibrated on the GPU."""
    from nemo_bielik.quantize import modelopt
    from nemo_bielik.quantize.modelopt_reader import read_tensors

    source, output = make_model("llama", **WIDE), tmp_path_factory.mktemp("fp8")
    layers = choose_layers(Checkpoint.open(source).arch, PrecisionConfig(format="fp8"))
    windows = torch.randint(0, 48, (8, 32), generator=torch.Generator().manual_seed(0)).numpy()
    model = modelopt.load_model(source)
    modelopt.export(
        modelopt.calibrate(model, find_format("fp8"), layers, False, windows, 4), output
    )
    return output, read_tensors(output)


def real_product(inputs, weight, input_scale, weight_scale):
    """Return inputs · weightᵀ as FP8 tensor cores compute it, in bfloat16."""
    return torch._scaled_mm(
        fp8.quantize(inputs, input_scale),
        weight.t(),
        scale_a=input_scale,
        scale_b=weight_scale,
        out_dtype=torch.bfloat16,
    )


def test_real_products_of_the_exported_tensors_are_the_simulated_ones(exported):
    _, tensors = exported
    names = [name.removesuffix(".weight_scale") for name in tensors if "weight_scale" in name]
    assert names
    for name in names:
        weight, scale, input_scale = (
            tensors[f"{name}.{part}"].cuda() for part in ("weight", "weight_scale", "input_scale")
        )
        inputs = torch.randn(32, weight.shape[1], device="cuda")
        found = real_product(inputs, weight, input_scale, scale).float()
        wanted = fp8.simulate(inputs, input_scale) @ fp8.dequantize(weight, scale).t()
        # one rounding to bfloat16, and the hardware's sums
        assert (found - wanted).norm() < (TOLERANCE + 2**-8) * wanted.norm(), name


def test_the_whole_model_on_real_products_is_the_simulated_one(exported):
    from nemo_bielik.quantize.modelopt_reader import read_simulated

    directory, tensors = exported
    text = torch.randint(0, 48, (4, 32), device="cuda")
    simulated, real = (read_simulated(directory).cuda().to(torch.bfloat16) for _ in range(2))

    def multiply(name):
        parts = ("weight", "input_scale", "weight_scale")
        weight, input_scale, scale = (tensors[f"{name}.{part}"].cuda() for part in parts)

        def forward(inputs):
            rows = inputs.flatten(0, -2)
            product = real_product(rows, weight, input_scale, scale)
            return product.unflatten(0, inputs.shape[:-1])

        return forward

    for name, module in real.named_modules():
        if f"{name}.weight_scale" in tensors:
            module._forward_pre_hooks.clear()
            module.forward = multiply(name)
    with torch.no_grad():
        wanted, found = (model(text).logits.float() for model in (simulated, real))
    divergence = torch.nn.functional.kl_div(
        found.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert divergence.mean() < 0.01


def test_modelopts_nvfp4_kernel_is_the_plain_reference():
    """But for blocks below 1e-5, which its kernel takes for zero."""
    from modelopt.torch.quantization.tensor_quant import dynamic_block_quant

    values = torch.randn(64, 256, generator=torch.Generator().manual_seed(1)).cuda()
    amax = values.abs().amax()
    found = dynamic_block_quant(values, 16, amax, None, (2, 1), (4, 3))
    wanted = nvfp4.simulate(values, nvfp4.scale_of(amax))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
