"""FP8 as servers read it: E4M3 elements and one float32 scale a tensor.

E4M3 is a sign, four exponent bits (bias 7) and three mantissa bits without infinities (Micikevicius
et al., "FP8 Formats for Deep Learning", 2022). A tensor of largest magnitude amax has the scale
amax / 448 and its elements are those of value / scale, rounded to even.
"""

import torch
from torch import Tensor

#: The largest E4M3 number.
LARGEST = 448.0
_ELEMENT = torch.float8_e4m3fn


def round_e4m3(values: Tensor) -> Tensor:
    """Return `values`, any shape, as E4M3: rounded to even, cut to ±448."""
    # what is too large has no infinity to become: torch would make it NaN
    return values.float().clamp(-LARGEST, LARGEST).to(_ELEMENT)


def tensor_scale(values: Tensor) -> Tensor:
    """Return the scale of `values`, a float32 scalar; 1 where they are all zero."""
    return scale_of(values.detach().abs().amax())


def scale_of(amax: Tensor) -> Tensor:
    """Return the scale of a tensor whose largest magnitude is `amax`."""
    amax = amax.float()
    return torch.where(amax > 0, amax / LARGEST, 1.0)


def quantize(values: Tensor, scale: Tensor) -> Tensor:
    """Return the elements of `values` at `scale`."""
    return round_e4m3(values.float() / scale)


def dequantize(elements: Tensor, scale: Tensor) -> Tensor:
    """Return the float32 values that E4M3 `elements` stand for at `scale`."""
    return elements.float() * scale


def simulate(values: Tensor, scale: Tensor) -> Tensor:
    """Return what is left of `values` in this format, in their own type."""
    return dequantize(quantize(values, scale), scale).to(values.dtype)
