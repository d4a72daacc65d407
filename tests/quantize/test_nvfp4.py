"""NVFP4 against the definition of its bits, rounded in exact arithmetic, and ModelOpt's packing."""

from fractions import Fraction
from itertools import pairwise

import number_tables as tables
import numpy as np
import pytest
import torch

from nemo_bielik.quantize import nvfp4

FLOATS = torch.float32


def weights(seed: int = 0, shape: tuple[int, ...] = (6, 64), spread: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * spread


def edge_cases() -> torch.Tensor:
    """Every number, every point halfway between two, and the float32 numbers beside each."""
    numbers = sorted({float(number) for number in tables.E2M1.values()})
    halfway = [(low + high) / 2 for low, high in pairwise(numbers)]
    points = np.array([*numbers, *halfway, 7.0, -7.0, 1e30], np.float32)
    beside = [np.nextafter(points, np.float32(side)) for side in (-np.inf, np.inf)]
    return torch.from_numpy(np.concatenate([points, *beside]))


def test_the_sixteen_codes_are_those_of_the_definition():
    codes = torch.arange(16, dtype=torch.uint8)
    packed = (codes[1::2] << 4 | codes[0::2]).reshape(1, 8)
    one = torch.ones(1, 1).to(torch.float8_e4m3fn)
    found = nvfp4.dequantize(packed, one, torch.tensor(1.0)).flatten().tolist()
    assert found == [float(tables.E2M1[code]) for code in range(16)]


def test_elements_are_rounded_as_exact_arithmetic_rounds_them():
    values = torch.cat([edge_cases(), weights(shape=(2000,), spread=3.0)])
    for value, found in zip(values.tolist(), nvfp4.round_e2m1(values).tolist(), strict=True):
        code = tables.nearest_code(Fraction(value), tables.E2M1)
        assert found == float(tables.E2M1[code]), value


def reference(values: torch.Tensor) -> tuple[list[list[int]], list[list[int]], np.float32]:
    """Return (codes, codes of block scales, tensor's scale), block by block and value by value.

    Divisions are float32's, rounding is exact.
    """
    array = values.numpy()
    scale = np.float32(np.abs(array).max()) / np.float32(6 * 448)
    codes, scales = [], []
    for row in array:
        scales.append([])
        codes.append([])
        for block in row.reshape(-1, 16):
            ideal = np.abs(block).max() / (np.float32(6) * scale)
            scales[-1].append(tables.nearest_code(Fraction(float(ideal)), tables.E4M3))
            divisor = np.float32(float(tables.E4M3[scales[-1][-1]])) * scale
            codes[-1] += [
                tables.nearest_code(Fraction(float(value / divisor)), tables.E2M1)
                for value in block
            ]
    return codes, scales, scale


def test_a_tensor_is_bit_for_bit_the_reference():
    values = weights() * torch.logspace(-2, 1, 6).unsqueeze(-1)  # block scales of all sizes
    codes, scales, scale = reference(values)
    packed, found_scales = nvfp4.quantize(values, nvfp4.tensor_scale(values))
    assert nvfp4.tensor_scale(values).item() == scale
    assert found_scales.view(torch.uint8).tolist() == scales
    found = torch.stack([packed & 15, packed >> 4], -1).flatten(-2)
    assert found.tolist() == codes


def test_simulating_is_packing_and_unpacking():
    values = weights(seed=1)
    scale = nvfp4.tensor_scale(values)
    unpacked = nvfp4.dequantize(*nvfp4.quantize(values, scale), scale)
    assert torch.equal(nvfp4.simulate(values, scale), unpacked)


@pytest.mark.parametrize("tiny_block", [0.0, 1e-9])
def test_blocks_that_vanish_become_zero(tiny_block):
    values = weights()
    values[2, 16:32] = tiny_block
    simulated = nvfp4.simulate(values, nvfp4.tensor_scale(values))
    assert torch.isfinite(simulated).all()
    assert not simulated[2, 16:32].any()
    assert simulated[2, 32:].any()


def test_what_is_larger_than_the_scale_allows_is_cut_not_lost():
    values = weights()
    scale = nvfp4.tensor_scale(values) / 10
    simulated = nvfp4.simulate(values, scale)
    assert torch.isfinite(simulated).all()
    assert simulated.abs().max() == 6 * 448 * scale


def test_the_values_keep_their_type():
    values = weights().to(torch.bfloat16)
    assert nvfp4.simulate(values, nvfp4.tensor_scale(values)).dtype == torch.bfloat16
