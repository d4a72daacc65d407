"""Bielik's shapes as NeMo 2 configurations; the numbers are those of `nemo_bielik.arch`."""

from dataclasses import dataclass, field
from typing import Any

import torch
from nemo.collections.llm.gpt.model.mistral import MistralConfig7B

from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B, ModelArch
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import CheckpointError

#: NeMo's name of a size → ours.
SIZES = {
    "num_layers": "num_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "ffn_hidden_size",
    "num_attention_heads": "num_attention_heads",
    "num_query_groups": "num_query_groups",
    "kv_channels": "head_dim",
    "vocab_size": "vocab_size",
    "rotary_base": "rope_theta",
    "layernorm_epsilon": "rms_norm_eps",
    "share_embeddings_and_output_weights": "tie_word_embeddings",
}


@dataclass
class BielikConfig(MistralConfig7B):
    """A dense Llama or Mistral in NeMo 2, whatever its size.

    `vocab_size` is the number of rows that the embedding has, and is not padded. `hf_config` is the
    ``config.json`` that the model came with: an export says again what NeMo has no field for.
    """

    window_size: list[int] | None = None  # MistralConfig7B's own is a window of 4,096 tokens
    cp_comm_type: str | None = None
    rotary_percent: float = 1.0
    make_vocab_size_divisible_by: int = 1
    hf_config: dict[str, Any] = field(default_factory=dict)

    @property
    def arch(self) -> ModelArch:
        """The sizes as they are now, so after NeMo has pruned the model too."""
        sizes = {ours: getattr(self, name) for name, ours in SIZES.items()}
        longest = self.hf_config.get("max_position_embeddings") or self.seq_length
        return ModelArch(
            name=type(self).__name__,
            model_type=self.hf_config.get("model_type", "mistral"),
            max_position_embeddings=int(longest),
            **{**sizes, "rope_theta": float(self.rotary_base)},
        )


@dataclass
class BielikConfig11B(BielikConfig):
    """Bielik-11B-v3."""

    num_layers: int = BIELIK_11B_V3.num_layers
    hidden_size: int = BIELIK_11B_V3.hidden_size
    ffn_hidden_size: int = BIELIK_11B_V3.ffn_hidden_size
    num_attention_heads: int = BIELIK_11B_V3.num_attention_heads
    num_query_groups: int = BIELIK_11B_V3.num_query_groups
    kv_channels: int = BIELIK_11B_V3.head_dim
    vocab_size: int = BIELIK_11B_V3.vocab_size
    rotary_base: float = BIELIK_11B_V3.rope_theta
    layernorm_epsilon: float = BIELIK_11B_V3.rms_norm_eps
    share_embeddings_and_output_weights: bool = BIELIK_11B_V3.tie_word_embeddings
    seq_length: int = BIELIK_11B_V3.max_position_embeddings


@dataclass
class BielikMinitronConfig7B(BielikConfig11B):
    """Bielik-Minitron-7B: fewer layers, narrower ffn."""

    num_layers: int = BIELIK_MINITRON_7B.num_layers
    ffn_hidden_size: int = BIELIK_MINITRON_7B.ffn_hidden_size


def config_of(checkpoint: Checkpoint) -> BielikConfig:
    """Return the NeMo 2 configuration of a Hugging Face directory.

    Raises `CheckpointError` for what NeMo's configuration cannot say: scaled rotary embeddings,
    another activation, a sliding window that hides something, tensors of several types.
    """
    _require_sayable(checkpoint)
    arch, dtype = checkpoint.arch, _dtype(checkpoint)
    return BielikConfig(
        **{name: getattr(arch, ours) for name, ours in SIZES.items()},
        seq_length=arch.max_position_embeddings,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        params_dtype=dtype,
        hf_config=dict(checkpoint.config),
    )


def _require_sayable(checkpoint: Checkpoint) -> None:
    config, longest = checkpoint.config, checkpoint.arch.max_position_embeddings
    window = config.get("sliding_window")
    for field_name, bad in (
        ("rope_scaling", config.get("rope_scaling") is not None),
        ("hidden_act", config.get("hidden_act", "silu") != "silu"),
        ("sliding_window", window is not None and window < longest),
    ):
        if bad:
            raise CheckpointError(
                f"{checkpoint.directory}: config.json sets {field_name} to {config[field_name]!r}, "
                "which the NeMo 2 conversion does not carry over; use the main engine (`bielik "
                "distill`) for this model"
            )


def _dtype(checkpoint: Checkpoint) -> torch.dtype:
    found = sorted({tensor.format.torch_name for tensor in checkpoint.tensors.values()})
    if len(found) > 1:
        raise CheckpointError(
            f"{checkpoint.directory}: holds tensors of several types ({', '.join(found)}), and a "
            "NeMo 2 model has one; save it in one type"
        )
    dtype: torch.dtype = getattr(torch, found[0])
    return dtype
