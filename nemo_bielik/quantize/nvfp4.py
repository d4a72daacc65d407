"""NVFP4 in plain arithmetic: 4-bit elements in blocks of 16 with a scale each, and one for all.

An element is E2M1: a sign and one of 0, 0.5, 1, 1.5, 2, 3, 4, 6. Sixteen neighbours along the last
axis share a scale in E4M3 (`fp8.py`), and all blocks of a tensor one in float32, so that an element
stands for element × block's scale × tensor's scale. Rounding is to even in every step (NVIDIA,
"Pretraining Large Language Models with NVFP4", 2025; the layout is that of ModelOpt's exporter).

Nothing here needs a GPU: this is what simulates the format where its instructions are missing.
Shapes: values [..., n], packed elements [..., n / 2], block scales [..., n / 16].
"""

import torch
from torch import Tensor

from nemo_bielik.quantize import fp8

BLOCK = 16
#: The largest E2M1 number.
LARGEST = 6.0
#: Magnitude of each code; the code's fourth bit is the sign.
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_SIGN = 8


def tensor_scale(values: Tensor) -> Tensor:
    """Return the scale of `values`, a float32 scalar; 1 where they are all zero.

    The block of the largest magnitude gets the largest E4M3 number, 448, as its scale.
    """
    return scale_of(values.detach().abs().amax())


def scale_of(amax: Tensor) -> Tensor:
    """Return the scale of a tensor whose largest magnitude is `amax`."""
    amax = amax.float()
    return torch.where(amax > 0, amax / (LARGEST * fp8.LARGEST), 1.0)


def block_scales(values: Tensor, scale: Tensor) -> Tensor:
    """Return the E4M3 scales of the blocks of `values` in a tensor of scale `scale`."""
    amax = _blocks(values).abs().amax(dim=-1)
    return fp8.round_e4m3(torch.where(amax > 0, amax / (LARGEST * scale), 1.0))


def quantize(values: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return (packed elements as bytes, block scales) of `values` at the tensor's `scale`.

    The first of two neighbours lies in a byte's lower half.
    """
    scales = block_scales(values, scale)
    codes = _codes(_scaled(values, scales, scale)).reshape(values.shape)
    return codes[..., 1::2] << 4 | codes[..., 0::2], scales


def dequantize(packed: Tensor, scales: Tensor, scale: Tensor) -> Tensor:
    """Return the float32 values that packed elements stand for."""
    codes = torch.stack([packed & 0x0F, packed >> 4], dim=-1).flatten(-2)
    magnitudes = torch.tensor([*MAGNITUDES, *(-value for value in MAGNITUDES)]).to(packed.device)
    return _restored(_blocks(magnitudes[codes.long()]), scales, scale)


def simulate(values: Tensor, scale: Tensor) -> Tensor:
    """Return what is left of `values` in this format, in their own type."""
    scales = block_scales(values, scale)
    rounded = round_e2m1(_scaled(values, scales, scale))
    return _restored(rounded, scales, scale).to(values.dtype)


def round_e2m1(values: Tensor) -> Tensor:
    """Return the nearest E2M1 numbers to float32 `values`; a tie goes to the even code."""
    magnitude = values.abs().clamp(max=LARGEST)
    # the numbers lie 0.5 apart below 2, 1 apart below 4, 2 apart above
    step = 0.5 * (1 + (magnitude >= 2).float() + 2 * (magnitude >= 4).float())
    return torch.copysign(torch.round(magnitude / step) * step, values)


def _codes(values: Tensor) -> Tensor:
    rounded = round_e2m1(values)
    magnitudes = torch.tensor(MAGNITUDES, device=values.device)
    codes = torch.searchsorted(magnitudes, rounded.abs()).to(torch.uint8)
    return codes + _SIGN * (values < 0).to(torch.uint8)


def _scaled(values: Tensor, scales: Tensor, scale: Tensor) -> Tensor:
    """Return `values` in blocks, divided by their scales; a block whose scale is 0 becomes 0."""
    divisor = (scales.float() * scale).unsqueeze(-1)
    return torch.where(divisor > 0, _blocks(values) / divisor, 0.0)


def _restored(blocks: Tensor, scales: Tensor, scale: Tensor) -> Tensor:
    return (blocks * (scales.float() * scale).unsqueeze(-1)).flatten(-2)


def _blocks(values: Tensor) -> Tensor:
    return values.float().reshape(*values.shape[:-1], -1, BLOCK)
