"""The initialize stage: a model directory with random weights, to train from scratch.

It is how a small teacher starts and how "the same shape from random weights" is made as a control.
"""

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_bielik import stages
from nemo_bielik.arch import ModelArch, preset
from nemo_bielik.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    copy_tokenizer,
    read_config,
    read_json,
)
from nemo_bielik.errors import CheckpointError, ConfigError
from nemo_bielik.files import file_sha256, require_space, value_sha256
from nemo_bielik.progress import progress
from nemo_bielik.tensors import TensorRow, tensor_rows

if TYPE_CHECKING:
    import torch

STANDARD_DEVIATION = 0.02
_RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight")
_FP32_BYTES = 4
_OVERRIDES = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)


@dataclass(kw_only=True)
class InitializeConfig:
    """Which architecture to fill with random weights; sizes not given are the preset's."""

    output: Path = field(metadata={"help": "model directory to make"})
    arch: str = field(default="", metadata={"help": "architecture preset, e.g. tiny-bielik-11b-v3"})
    like: Path | None = field(
        default=None, metadata={"help": "take the architecture of this model directory instead"}
    )
    tokenizer: Path | None = field(
        default=None, metadata={"help": "directory with the tokenizer; default: that of `like`"}
    )
    num_layers: int | None = field(default=None, metadata={"help": "layers"})
    hidden_size: int | None = field(default=None, metadata={"help": "hidden channels"})
    ffn_hidden_size: int | None = field(default=None, metadata={"help": "ffn channels"})
    num_attention_heads: int | None = field(default=None, metadata={"help": "query heads"})
    num_query_groups: int | None = field(default=None, metadata={"help": "query groups (KV heads)"})
    head_dim: int | None = field(default=None, metadata={"help": "channels of a head"})
    vocab_size: int | None = field(default=None, metadata={"help": "rows of the embedding"})
    max_position_embeddings: int | None = field(default=None, metadata={"help": "context length"})
    seed: int = field(default=0, metadata={"help": "decides every weight"})

    def __post_init__(self) -> None:
        if bool(self.arch) == (self.like is not None):
            raise ConfigError("give either --arch (a preset) or --like (a model directory)")
        if self.arch:
            self.resolved_arch()
        if self.arch and self.tokenizer is None:
            raise ConfigError("--arch needs --tokenizer, a directory holding tokenizer.json")

    def resolved_arch(self) -> ModelArch:
        """Return the preset or the architecture of `like`, with the given sizes."""
        sizes = {name: getattr(self, name) for name in _OVERRIDES}
        given = {name: size for name, size in sizes.items() if size is not None}
        if self.like is None:
            return preset(self.arch).replace(**given)
        return ModelArch.from_hf_config(read_config(self.like), str(self.like)).replace(**given)


def initialize(config: InitializeConfig) -> None:
    """Write a Hugging Face directory of random fp32 weights (`random_tensor`), streaming.

    Raises `CheckpointError` if the tokenizer is missing or its vocabulary exceeds the model's.
    """
    arch = config.resolved_arch()
    tokenizer = config.tokenizer or config.like
    assert tokenizer is not None
    vocabulary = _vocabulary(tokenizer)
    _check_vocabulary(vocabulary, arch, tokenizer)
    base = _base_config(config, tokenizer, vocabulary)
    inputs = {"tokenizer": file_sha256(tokenizer / "tokenizer.json"), "base": value_sha256(base)}
    manifest = stages.describe("initialize", config, inputs, config.seed)
    if stages.is_done(config.output, manifest):
        print(f"{config.output}: already done")
        return
    parameters = sum(row.numel for row in tensor_rows(arch))
    require_space(config.output, parameters * _FP32_BYTES)
    with stages.stage_output(config.output, manifest, {"parameters": parameters}) as scratch:
        write_random(arch, config.seed, scratch, base)
        copy_tokenizer(tokenizer, scratch)
    print(f"{config.output}: {parameters:,} random parameters")


def write_random(arch: ModelArch, seed: int, directory: Path, base: dict[str, Any]) -> Checkpoint:
    """Fill the existing `directory` with random weights of `arch`; `base` completes its config."""
    writer = CheckpointWriter(directory, arch.to_hf_config(base))
    for row in progress(list(tensor_rows(arch)), desc="initialize", unit="tensor"):
        writer.add(row.name, random_tensor(row, arch, seed))
    writer.finish()
    return Checkpoint.open(directory)


def random_tensor(row: TensorRow, arch: ModelArch, seed: int) -> "torch.Tensor":
    """Return one tensor of `arch`, fp32, a function of `seed` and its name alone.

    Norms are 1 and biases 0; matrices are normal with a standard deviation of 0.02, and of
    0.02 / √(2 · layers) where they write into the residual stream, whose variance then does not
    grow with depth.
    """
    import torch

    if row.name.endswith("norm.weight"):
        return torch.ones(row.shape)
    if row.name.endswith(".bias"):
        return torch.zeros(row.shape)
    deviation = STANDARD_DEVIATION
    if row.name.endswith(_RESIDUAL_OUTPUTS):
        deviation /= math.sqrt(2 * arch.num_layers)
    digest = hashlib.sha256(f"{seed}:{row.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.empty(row.shape).normal_(0.0, deviation, generator=generator)


def _vocabulary(directory: Path) -> dict[str, int]:
    """Return token → id of a tokenizer directory."""
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{directory}: holds no tokenizer.json; make one with `bielik tokenizer`"
        )
    try:
        vocabulary: dict[str, int] = Tokenizer.from_file(str(path)).get_vocab()
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path}: is not a tokenizer ({error})") from None
    return vocabulary


def _check_vocabulary(vocabulary: dict[str, int], arch: ModelArch, directory: Path) -> None:
    needed = max(vocabulary.values(), default=-1) + 1
    if needed > arch.vocab_size:
        raise CheckpointError(
            f"{directory}: the tokenizer has {needed} tokens, but {arch.name} has a vocab_size of "
            f"{arch.vocab_size}; use a smaller tokenizer or --vocab-size {needed}"
        )


def _base_config(
    config: InitializeConfig, tokenizer: Path, vocabulary: dict[str, int]
) -> dict[str, Any]:
    """Return the fields of ``config.json`` beside the architecture: those of `like`, token ids."""
    base = dict(read_config(config.like)) if config.like else {}
    for name in ("_name_or_path", "dtype", "torch_dtype", "layer_types"):
        base.pop(name, None)
    if config.tokenizer is not None:
        base |= _special_token_ids(tokenizer, vocabulary)
    return base


def _special_token_ids(directory: Path, vocabulary: dict[str, int]) -> dict[str, int | None]:
    """Return the ids of the beginning, end and padding tokens that the tokenizer declares."""
    declared = read_json(directory / "tokenizer_config.json")
    ids = {}
    for role in ("bos", "eos", "pad"):
        token = declared.get(f"{role}_token")
        text = token.get("content") if isinstance(token, dict) else token
        ids[f"{role}_token_id"] = vocabulary.get(text) if text else None
    return ids
