"""FP8's rounding against the definition of its bits."""

from fractions import Fraction
from itertools import pairwise

import number_tables as tables
import numpy as np
import torch

from nemo_bielik.quantize import fp8


def test_elements_are_rounded_as_exact_arithmetic_rounds_them():
    numbers = sorted({float(number) for number in tables.E4M3.values()})
    halfway = [(low + high) / 2 for low, high in pairwise(numbers)]
    points = np.array([*numbers, *halfway, 460.0, -1e30], np.float32)
    beside = [np.nextafter(points, np.float32(side)) for side in (-np.inf, np.inf)]
    values = torch.from_numpy(np.concatenate([points, *beside]))
    for value, found in zip(values.tolist(), fp8.round_e4m3(values).float().tolist(), strict=True):
        code = tables.nearest_code(Fraction(value), tables.E4M3)
        assert found == float(tables.E4M3[code]), value


def test_the_largest_value_is_kept():
    values = torch.tensor([0.1, -3.0, 2.0])
    assert fp8.simulate(values, fp8.tensor_scale(values))[1] == -3.0


def test_nothing_but_zeros_stays_so():
    zeros = torch.zeros(4)
    assert not fp8.simulate(zeros, fp8.tensor_scale(zeros)).any()
