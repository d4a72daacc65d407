"""A family is one row: its table of tensors equals what transformers builds (docs/families.md)."""

import pytest

from nemo_bielik.arch import FAMILIES, Family, ModelArch
from nemo_bielik.errors import CheckpointError
from nemo_bielik.tensors import check_tensors, tensor_rows

QKV_BIAS = ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias")
QK_NORM = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
#: Families that are not registered, as a newcomer would write their row.
FURTHER = (
    Family("qwen2", "Qwen2ForCausalLM", QKV_BIAS),
    Family("qwen3", "Qwen3ForCausalLM", QK_NORM),
)


@pytest.fixture(autouse=True)
def further_families(monkeypatch: pytest.MonkeyPatch) -> None:
    for family in FURTHER:
        monkeypatch.setitem(FAMILIES, family.model_type, family)


def arch_of(model_type: str, **changes: object) -> ModelArch:
    arch = ModelArch(
        name=f"small {model_type}",
        model_type=model_type,
        vocab_size=48,
        hidden_size=32,
        ffn_hidden_size=40,
        num_layers=3,
        num_attention_heads=4,
        num_query_groups=2,
        head_dim=8,
        max_position_embeddings=64,
    )
    return arch.replace(**changes)


def transformers_tensors(arch: ModelArch) -> dict[str, tuple[int, ...]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(**arch.to_hf_config())
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert type(model).__name__ == arch.family.architecture
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("head_dim", [8, 12], ids=["head_dim=8", "head_dim=12"])
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_table_equals_what_transformers_builds(
    model_type: str, head_dim: int, tied: bool
) -> None:
    arch = arch_of(model_type, head_dim=head_dim, tie_word_embeddings=tied)
    found = transformers_tensors(arch)
    assert {row.name: row.shape for row in tensor_rows(arch)} == found
    check_tensors(arch, found.items(), "model")


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_config_is_read_back_as_it_was_written(model_type: str) -> None:
    transformers = pytest.importorskip("transformers")
    arch = arch_of(model_type, head_dim=12, rope_theta=5e4, rms_norm_eps=1e-4)
    config = transformers.AutoConfig.for_model(**arch.to_hf_config()).to_dict()
    assert ModelArch.from_hf_config(config, arch.name) == arch


def test_a_tensor_without_a_row_is_refused_by_name() -> None:
    found = transformers_tensors(arch_of("qwen2"))
    with pytest.raises(CheckpointError, match=r"9 tensor\(s\) match no row.*q_proj\.bias"):
        check_tensors(arch_of("llama"), found.items(), "model")


def test_a_missing_bias_is_refused_by_name() -> None:
    found = transformers_tensors(arch_of("llama"))
    with pytest.raises(CheckpointError, match=r"9 tensor\(s\) missing: .*proj\.bias"):
        check_tensors(arch_of("qwen2"), found.items(), "model")


def test_bias_flags_a_family_has_no_row_for_are_refused() -> None:
    config = arch_of("llama").to_hf_config() | {"mlp_bias": True}
    with pytest.raises(CheckpointError, match="mlp_bias"):
        ModelArch.from_hf_config(config, "biased")
