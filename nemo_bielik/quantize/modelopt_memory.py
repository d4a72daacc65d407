"""Bytes that calibration takes and its output needs, known before a model is loaded. No torch.

Weights stay as they are stored while ModelOpt looks at them. Beside them lives one of two things
at a time: a forward pass, whose largest tensors are the MLP's and the logits with their float32
copy; or the float32 copies of one matrix that rounding and packing make.
"""

from dataclasses import dataclass

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError
from nemo_bielik.quantize.modelopt_formats import ServerFormat
from nemo_bielik.quantize.modelopt_layers import LayerChoice, linear_shapes
from nemo_bielik.tensors import tensor_rows

#: Python with torch, transformers, Megatron and ModelOpt; on a GPU CUDA's context is about as much.
PROGRAM_BYTES = 1_400_000_000
#: Copies of a matrix or an input in float32 while it is rounded: blocks, scaled, rounded, result.
_ROUNDING_COPIES = 5
_FLOAT32 = 4


@dataclass(frozen=True)
class CalibrationMemory:
    """Bytes by what takes them; `working` is the larger of a forward pass and rounding a matrix."""

    weights: int
    working: int
    program: int = PROGRAM_BYTES

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.working + self.program


def calibration_memory(
    checkpoint: Checkpoint, tokens_at_once: int, layers: LayerChoice
) -> CalibrationMemory:
    """Return what calibration of `checkpoint` on batches of `tokens_at_once` will need."""
    arch = checkpoint.arch
    shapes = linear_shapes(arch)
    matrix = max(shapes[name][0] * shapes[name][1] for name in layers.quantized)
    inputs = tokens_at_once * max(arch.hidden_size, arch.ffn_hidden_size)
    rounding = _ROUNDING_COPIES * _FLOAT32 * matrix
    forward = _ROUNDING_COPIES * _FLOAT32 * inputs + 2 * _FLOAT32 * tokens_at_once * arch.vocab_size
    return CalibrationMemory(checkpoint.num_bytes, rounding + forward)


def output_bytes(checkpoint: Checkpoint, kind: ServerFormat, layers: LayerChoice) -> int:
    """Return the bytes of the weights that will be written, scales of blocks included."""
    quantized = {f"{name}.weight" for name in layers.quantized}
    total = 0
    for row in tensor_rows(checkpoint.arch):
        if row.name in quantized:
            total += kind.num_bytes(row.shape[0], row.shape[1])
        else:
            total += checkpoint.tensors[row.name].num_bytes
    return total


def require_memory(needed: CalibrationMemory) -> None:
    """Raise `ConfigError` unless this machine, or its first GPU, has what is needed free."""
    free, where = _free_memory()
    if free < needed.total:
        raise ConfigError(
            f"calibration will need {needed.total / 1e9:.1f} GB of {where}, of which "
            f"{free / 1e9:.1f} GB are free; give a smaller batch_size or sequence_length, or use a "
            "larger machine"
        )


def _free_memory() -> tuple[int, str]:
    import psutil
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0]), "GPU memory"
    return int(psutil.virtual_memory().available), "memory"
