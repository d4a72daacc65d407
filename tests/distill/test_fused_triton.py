"""The GPU kernels' arithmetic, under Triton's interpreter on the CPU: no GPU has run them here."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from nemo_bielik.distill.divergences import forward_kl

INTERPRET = """
import sys
import torch
from nemo_bielik.distill import fused_triton
fused_triton._BLOCK = 16  # several blocks a row
found = []
for student, teacher, temperature in torch.load(sys.argv[1]):
    total = fused_triton.forward_kl_in_place(student, teacher, temperature)
    found.append((total, student))
torch.save(found, sys.argv[2])
"""


def problem(tokens, vocabulary, dtype=torch.float32, scale=3.0, ruled_out=0):
    generator = torch.Generator().manual_seed(tokens)
    student, teacher = (scale * torch.randn(2, tokens, vocabulary, generator=generator)).to(dtype)
    student[:, :ruled_out] = teacher[:, :ruled_out] = -torch.inf
    return student, teacher


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernels_are_forward_kl_under_the_interpreter(tmp_path):
    cases = [
        (*problem(5, 70), 1.0),
        (*problem(3, 16), 2.0),
        (*problem(2, 5), 0.5),
        (*problem(4, 40, torch.bfloat16), 2.0),
        (*problem(3, 50, scale=300.0), 1.0),
        (*problem(2, 50, ruled_out=20), 1.0),
        (*problem(0, 50), 1.0),
    ]
    torch.save(cases, tmp_path / "cases.pt")
    command = [sys.executable, "-c", INTERPRET, tmp_path / "cases.pt", tmp_path / "found.pt"]
    subprocess.run(command, check=True, env=os.environ | {"TRITON_INTERPRET": "1"})
    for (student, teacher, t), (total, slope) in zip(
        cases, torch.load(tmp_path / "found.pt"), strict=True
    ):
        values, gradient = forward_kl(student.double() / t, teacher.double() / t)
        torch.testing.assert_close(total, t**2 * values.sum(), rtol=1e-5, atol=1e-5)
        # the interpreter cuts off what bf16 has no room for, where a GPU rounds
        tolerance = 2**-7 if student.dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(slope.double(), t * gradient, rtol=tolerance, atol=1e-6)
    assert not cases[-1][0].numel(), "no tokens are no launch"
