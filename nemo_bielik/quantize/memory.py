"""Bytes that each step of a quantisation takes, known before a model is loaded.

Three steps load the model. Calibration for servers holds it as it is stored, and what is written
beside it; the importance matrix and the simulation of server formats hold it in float32 on a CPU,
as it is stored on a GPU. Beside the weights live a forward pass, whose largest tensors are the
MLP's and the logits with their copies, and the float32 copies of one matrix that rounding and
packing make. glibc gives back at once what is above 32 MB; of smaller matrices more may stay with
the process than is counted here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nemo_bielik.arch import ModelArch
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError
from nemo_bielik.quantize.modelopt_formats import ServerFormat
from nemo_bielik.quantize.modelopt_layers import LayerChoice, joined_layers, linear_shapes
from nemo_bielik.tensors import tensor_rows

#: Python with torch, transformers, Megatron and ModelOpt; on a GPU CUDA's context is about as much.
PROGRAM_BYTES = 1_400_000_000
#: Copies of a matrix or an input in float32 while it is rounded: blocks, scaled, rounded, result.
_ROUNDING_COPIES = 5
#: Copies of a window's logits in float64 while two models are compared.
_COMPARED_COPIES = 6
_FLOAT32, _FLOAT64 = 4, 8


@dataclass(frozen=True)
class Memory:
    """Bytes that one step takes, by what takes them; `working` is what comes and goes."""

    step: str
    weights: int
    working: int
    program: int = PROGRAM_BYTES

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.working + self.program

    def line(self) -> str:
        """Return one line about it."""
        return (
            f"{self.step} needs about {self.total / 1e9:.2f} GB: weights {self.weights / 1e9:.2f}, "
            f"working memory {self.working / 1e9:.2f}, programs {self.program / 1e9:.2f}"
        )


def calibration_memory(
    checkpoint: Checkpoint, tokens_at_once: int, kind: ServerFormat, layers: LayerChoice
) -> Memory:
    """Return what calibrating on batches of `tokens_at_once`, and writing `kind`, will need."""
    arch = checkpoint.arch
    shapes = linear_shapes(arch)
    matrix = max(shapes[name][0] * shapes[name][1] for name in layers.quantized)
    rounding = _ROUNDING_COPIES * _FLOAT32 * matrix
    forward = _inputs_bytes(arch, tokens_at_once) + 2 * _logits_bytes(arch, tokens_at_once)
    written = _written_bytes(checkpoint, kind, layers)
    return Memory("calibration", checkpoint.num_bytes, rounding + max(forward, written))


def _written_bytes(checkpoint: Checkpoint, kind: ServerFormat, layers: LayerChoice) -> int:
    """Return the bytes that writing makes beside the weights, which stay whole until its end.

    On a CPU all weights of a shard are one mapping of its file, so none is freed before the last.
    Packed matrices come on top. A format that smooths weights alone makes anew first, all together,
    the matrices that servers join (ModelOpt's ``preprocess_linear_fusion``); as each is packed, its
    copy goes.
    """
    shapes, chosen = linear_shapes(checkpoint.arch), set(layers.quantized)
    packed = sum(kind.num_bytes(*shapes[name]) for name in chosen)
    if kind.smooths != "shared":
        return packed
    groups = [names for names in joined_layers(checkpoint.arch) if len(names) > 1]
    joined = (name for names in groups for name in names if name in chosen)
    return max(packed, sum(checkpoint.tensors[f"{name}.weight"].num_bytes for name in joined))


def importance_memory(checkpoint: Checkpoint, tokens_at_once: int) -> Memory:
    """Return what the importance matrix will need on windows of `tokens_at_once`."""
    working = 2 * _inputs_bytes(checkpoint.arch, tokens_at_once)  # squares are in float64
    return Memory("the importance matrix", loaded_bytes(checkpoint), working)


def simulation_memory(
    checkpoint: Checkpoint, tokens_at_once: int, measured: int, exported: int
) -> Memory:
    """Return what running a server format beside the logits of `measured` tokens will need.

    Args:
        exported: bytes of the format's checkpoint, which is read whole before it is unpacked.
    """
    arch = checkpoint.arch
    matrix = max(rows * columns for rows, columns in linear_shapes(arch).values())
    compared = _COMPARED_COPIES * _logits_bytes(arch, tokens_at_once, _FLOAT64)
    working = _ROUNDING_COPIES * _FLOAT32 * matrix + _inputs_bytes(arch, tokens_at_once) + compared
    working += _logits_bytes(arch, measured) + exported
    return Memory("measuring servers' formats", loaded_bytes(checkpoint), working)


def _inputs_bytes(arch: ModelArch, tokens: int) -> int:
    return _ROUNDING_COPIES * _FLOAT32 * tokens * max(arch.hidden_size, arch.ffn_hidden_size)


def _logits_bytes(arch: ModelArch, tokens: int, size: int = _FLOAT32) -> int:
    return size * tokens * arch.vocab_size


def loaded_bytes(checkpoint: Checkpoint) -> int:
    """Return the bytes of weights as an evaluation loads them: float32 on a CPU."""
    import torch

    if torch.cuda.is_available():
        return checkpoint.num_bytes
    return sum(_FLOAT32 * row.numel for row in tensor_rows(checkpoint.arch))


def output_bytes(checkpoint: Checkpoint, kind: ServerFormat, layers: LayerChoice) -> int:
    """Return the bytes of the weights that will be written, with all scales but single numbers."""
    shapes, chosen = linear_shapes(checkpoint.arch), set(layers.quantized)
    total = checkpoint.num_bytes
    for names in joined_layers(checkpoint.arch):
        smoothed = kind.smooths == "each" or (kind.smooths == "shared" and len(names) == 1)
        for name in chosen.intersection(names):
            rows, columns = shapes[name]
            stored = checkpoint.tensors[f"{name}.weight"].num_bytes
            total += kind.num_bytes(rows, columns) - stored
            total += smoothed * stored // rows  # a number for each column, as wide as a weight
    return total


def require_memory(needs: Sequence[Memory]) -> None:
    """Raise `ConfigError` unless this machine, or its first GPU, has free what each step needs."""
    if not needs:
        return
    free, where = _free_memory()
    most = max(needs, key=lambda one: one.total)
    if free < most.total:
        raise ConfigError(
            f"{most.step} will need {most.total / 1e9:.1f} GB of {where}, of which "
            f"{free / 1e9:.1f} GB are free; give a smaller batch_size or sequence_length, or use a "
            "larger machine"
        )


def _free_memory() -> tuple[int, str]:
    import psutil
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0]), "GPU memory"
    return int(psutil.virtual_memory().available), "memory"
