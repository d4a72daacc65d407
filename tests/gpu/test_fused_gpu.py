"""On one GPU: the fused loss and its kernels agree with float64 on the CPU."""

import pytest
import torch

from nemo_bielik.distill.divergences import DIVERGENCES
from nemo_bielik.distill.fused import OutputLayer, fused_loss
from nemo_bielik.distill.loss_config import LossConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
TOKENS, VOCABULARY, WIDTHS = 300, 5000, (64, 96)
#: Of the norm: what rounding of logits to the type and of the products leaves.
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 3e-2}


def layers(dtype):
    generator = torch.Generator().manual_seed(1)
    for width in WIDTHS:
        hidden, weight = (
            torch.randn(rows, width, generator=generator) for rows in (TOKENS, VOCABULARY)
        )
        yield OutputLayer((hidden / 4).to(dtype), weight.to(dtype))


def results(student, teacher, loss, device, dtype):
    hidden, weight = (
        x.to(device, dtype).requires_grad_() for x in (student.hidden, student.weight)
    )
    target = OutputLayer(*(x.to(device, dtype) for x in (teacher.hidden, teacher.weight)))
    mask = (torch.arange(TOKENS) % 5 > 0).to(device)
    total, _ = fused_loss(OutputLayer(hidden, weight), target, mask, loss, chunk_bytes=2_000_000)
    total.backward()
    return [x.detach().double().cpu() for x in (total, hidden.grad, weight.grad)]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("divergence", list(DIVERGENCES))
def test_the_gpu_agrees_with_float64(dtype, temperature, divergence):
    student, teacher = layers(dtype)
    loss = LossConfig(divergence=divergence, temperature=temperature)
    found = results(student, teacher, loss, "cuda", dtype)
    expected = results(student, teacher, loss, "cpu", torch.float64)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() / other.norm() < TOLERANCE[dtype]
