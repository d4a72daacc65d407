"""Shapes of dense decoder models: the value that every stage speaks about.

A `ModelArch` holds only what decides tensor shapes and what a Hugging Face ``config.json`` needs
to name them. It imports no torch, so planning and reporting start in milliseconds.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from nemo_bielik.errors import CheckpointError, ConfigError, nearest


@dataclass(frozen=True)
class Family:
    """A dense architecture that Hugging Face, Megatron-Bridge and this package all know.

    `optional_tensors` names the per-layer tensors that it has beyond Llama's
    (see `nemo_bielik.tensors.LAYER_TENSORS`).
    """

    model_type: str
    architecture: str
    optional_tensors: tuple[str, ...] = ()


#: A further dense family is one more row here; docs/families.md shows how and how it is proven.
FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("llama", "LlamaForCausalLM"),
        Family("mistral", "MistralForCausalLM"),
    )
}


@dataclass(frozen=True, kw_only=True)
class ModelArch:
    """The dimensions of one model; invalid combinations raise `ConfigError` at construction."""

    name: str
    vocab_size: int
    hidden_size: int
    ffn_hidden_size: int
    num_layers: int
    num_attention_heads: int
    num_query_groups: int
    head_dim: int
    model_type: str = "mistral"
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 32768
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.model_type not in FAMILIES:
            raise ConfigError(
                f"{self.name}: model_type is {self.model_type!r}; supported are "
                f"{', '.join(sorted(FAMILIES))}{nearest(self.model_type, FAMILIES)}"
            )
        for field in _DIMENSIONS:
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(
                    f"{self.name}: {field} is {value!r}; it must be a positive integer"
                )
        if self.num_attention_heads % self.num_query_groups:
            raise ConfigError(
                f"{self.name}: num_attention_heads ({self.num_attention_heads}) must be a multiple "
                f"of num_query_groups ({self.num_query_groups})"
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"{self.name}: head_dim is {self.head_dim}; rotary embeddings need an even number"
            )

    @property
    def family(self) -> Family:
        """The row of `FAMILIES` this model belongs to."""
        return FAMILIES[self.model_type]

    @property
    def heads_per_group(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_attention_heads // self.num_query_groups

    def replace(self, **changes: Any) -> "ModelArch":
        """Return a copy with `changes`, validated again; an unknown field raises `ConfigError`."""
        known = [field.name for field in dataclasses.fields(self)]
        for field in changes:
            if field not in known:
                raise ConfigError(f"{self.name}: no field {field!r}{nearest(field, known)}")
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_hf_config(cls, config: Mapping[str, Any], name: str) -> "ModelArch":
        """Read a Hugging Face ``config.json``; `name` is what messages and tables call the model.

        Raises `CheckpointError` for an architecture outside `FAMILIES` or a missing field.
        """
        model_type = config.get("model_type")
        if model_type not in FAMILIES:
            raise CheckpointError(
                f"{name}: architecture {model_type!r} is not supported; supported dense families "
                f"are {', '.join(sorted(FAMILIES))} (docs/families.md shows how to add one)"
            )
        for flag in ("attention_bias", "mlp_bias"):
            if config.get(flag):
                raise CheckpointError(
                    f"{name}: config.json sets {flag}, and the {model_type} family has no row for "
                    "those tensors (docs/families.md shows how to add a family)"
                )
        _check_rotary(config, name)
        try:
            heads = config["num_attention_heads"]
            return cls(
                name=name,
                model_type=model_type,
                vocab_size=config["vocab_size"],
                hidden_size=config["hidden_size"],
                ffn_hidden_size=config["intermediate_size"],
                num_layers=config["num_hidden_layers"],
                num_attention_heads=heads,
                num_query_groups=config.get("num_key_value_heads") or heads,
                head_dim=config.get("head_dim") or config["hidden_size"] // heads,
                tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
                max_position_embeddings=config.get("max_position_embeddings", 32768),
                rope_theta=float(config.get("rope_theta", 10_000.0)),
                rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            )
        except KeyError as missing:
            raise CheckpointError(f"{name}: config.json lacks the field {missing}") from None
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise CheckpointError(f"{name}: config.json holds an odd value ({error})") from None

    def to_hf_config(self, base: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """Return a Hugging Face ``config.json`` dictionary.

        `base` supplies everything that this class does not hold (rope scaling, token ids, dtype);
        a pruned model passes its source's configuration.
        """
        return {
            "torch_dtype": "float32",
            "hidden_act": "silu",
            "attention_bias": False,
            **({"sliding_window": None} if self.model_type == "mistral" else {"mlp_bias": False}),
            "bos_token_id": 1,
            "eos_token_id": 2,
            **base,
            "architectures": [self.family.architecture],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.ffn_hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_query_groups,
            "head_dim": self.head_dim,
            "tie_word_embeddings": self.tie_word_embeddings,
            "max_position_embeddings": self.max_position_embeddings,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.rms_norm_eps,
        }


def _check_rotary(config: Mapping[str, Any], name: str) -> None:
    """Raise where transformers 5's spelling says more than ``rope_theta``, which is read."""
    plain = {"rope_type": "default", "rope_theta": config.get("rope_theta", 10_000.0)}
    found = config.get("rope_parameters") or {}
    if not isinstance(found, Mapping) or not found.items() <= plain.items():
        raise CheckpointError(
            f"{name}: config.json gives rope_parameters={found!r}, the spelling of transformers 5; "
            "write rope_theta and rope_scaling instead, which are read here"
        )


_DIMENSIONS = (
    "vocab_size",
    "hidden_size",
    "ffn_hidden_size",
    "num_layers",
    "num_attention_heads",
    "num_query_groups",
    "head_dim",
    "max_position_embeddings",
)

BIELIK_11B_V3 = ModelArch(
    name="bielik-11b-v3",
    vocab_size=32128,
    hidden_size=4096,
    ffn_hidden_size=14336,
    num_layers=50,
    num_attention_heads=32,
    num_query_groups=8,
    head_dim=128,
)

#: The report's Table 2: what each candidate changes in Bielik-11B-v3.
_TABLE_2: dict[str, dict[str, int]] = {
    "exp-001": {"hidden_size": 3072},
    "exp-002": {"ffn_hidden_size": 9216},
    "exp-003": {"num_layers": 36},
    "exp-004": {"ffn_hidden_size": 12288, "num_layers": 40},
    "exp-005": {"ffn_hidden_size": 10240},
    "exp-006": {"ffn_hidden_size": 11264, "num_layers": 44},
    "exp-007": {"hidden_size": 3648, "ffn_hidden_size": 12800, "num_layers": 44},
    "exp-008": {"num_layers": 32},
    "exp-009": {"ffn_hidden_size": 8192},
    "exp-010": {"ffn_hidden_size": 11264, "num_layers": 40},
}
EXPERIMENTS: dict[str, ModelArch] = {
    name: BIELIK_11B_V3.replace(name=name, **changes) for name, changes in _TABLE_2.items()
}
BIELIK_MINITRON_7B = EXPERIMENTS["exp-010"].replace(name="bielik-minitron-7b")


def tiny(arch: ModelArch) -> ModelArch:
    """Return `arch` scaled to a laptop in the report's proportions.

    Hidden and ffn are divided by 32, layers by 5, heads and groups by 4, with heads of 16 and a
    vocabulary of 1,024: Bielik-11B-v3 becomes 10 layers of 128 × 448 with 8 heads in 2 groups.
    """
    return arch.replace(
        name=f"tiny-{arch.name}",
        vocab_size=1024,
        hidden_size=arch.hidden_size // 32,
        ffn_hidden_size=arch.ffn_hidden_size // 32,
        num_layers=round(arch.num_layers / 5),
        num_attention_heads=arch.num_attention_heads // 4,
        num_query_groups=arch.num_query_groups // 4,
        head_dim=16,
        max_position_embeddings=256,
        rope_theta=10_000.0,
    )


_FULL_SIZE = (BIELIK_11B_V3, BIELIK_MINITRON_7B, *EXPERIMENTS.values())
PRESETS: dict[str, ModelArch] = {
    arch.name: arch for arch in (*_FULL_SIZE, *(tiny(arch) for arch in _FULL_SIZE))
}


def preset(name: str) -> ModelArch:
    """Return the preset called `name` (``exp_010`` and ``exp-010`` are the same)."""
    key = name.lower().replace("_", "-")
    if key not in PRESETS:
        raise ConfigError(
            f"no architecture preset {name!r}{nearest(key, PRESETS)}; "
            f"presets: {', '.join(sorted(PRESETS))}"
        )
    return PRESETS[key]
