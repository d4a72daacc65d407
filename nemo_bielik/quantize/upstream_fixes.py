"""Defects of ModelOpt mended while it quantises. Each says when it can be removed."""

import contextlib
from collections.abc import Iterator

import torch
from modelopt.torch.quantization.nn import TensorQuantizer
from modelopt.torch.quantization.nn.modules.tensor_quantizer import (
    is_registered_quant_backend,
    register_quant_backend,
)
from modelopt.torch.quantization.qtensor import nvfp4_tensor
from torch import Tensor

from nemo_bielik.quantize import nvfp4

#: Our arithmetic under the name by which ModelOpt's settings ask for it.
PLAIN_NVFP4 = "bielik-nvfp4"


@contextlib.contextmanager
def nvfp4_without_cuda() -> Iterator[None]:
    """Let ModelOpt simulate and write NVFP4 where there is no CUDA; elsewhere nothing changes.

    ModelOpt 0.43 rounds to NVFP4 in CUDA kernels alone: ours stands in, by its registry of backends
    (``TensorQuantizer._fake_quantize``). Its exporter is plain torch, but asks what the first GPU
    can do before it looks whether there is one (``backends.utils.fp4_compatible``). Remove either
    when ModelOpt does it on CPUs.
    """
    if torch.cuda.is_available():
        yield
        return
    if not is_registered_quant_backend(PLAIN_NVFP4):
        register_quant_backend(PLAIN_NVFP4, _simulate)
    compatible = nvfp4_tensor.fp4_compatible
    nvfp4_tensor.fp4_compatible = lambda: False
    try:
        yield
    finally:
        nvfp4_tensor.fp4_compatible = compatible


def _simulate(values: Tensor, quantizer: TensorQuantizer) -> Tensor:
    return nvfp4.simulate(values, nvfp4.scale_of(quantizer._get_amax(values)))
