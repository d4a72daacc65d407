"""Parameter counts against arithmetic by hand, the report's tables and transformers' models."""

import pytest

from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B, EXPERIMENTS, ModelArch, tiny
from nemo_bielik.planner.parameters import (
    count_one_embedding,
    count_parameters,
    reduction_percent,
)

#: "Total Parameters [B]" of the report's Table 2, as printed.
TABLE_2 = {
    "bielik-11b-v3": "11.04",
    "exp-001": "8.28",
    "exp-002": "7.90",
    "exp-003": "7.99",
    "exp-004": "7.85",
    "exp-005": "8.52",
    "exp-006": "8.07",
    "exp-007": "7.92",
    "exp-008": "7.11",
    "exp-009": "7.26",
    "exp-010": "7.35",
}
#: Two of them do not follow from the dimensions printed beside them.
BY_ARITHMETIC = {"exp-002": "7.89", "exp-003": "7.98"}
#: Reductions of the report's Table 3, as printed.
TABLE_3 = {"exp-006": "26.9", "exp-009": "34.2", "exp-010": "33.4"}
ARCHS = {BIELIK_11B_V3.name: BIELIK_11B_V3, **EXPERIMENTS}

SMALL = ModelArch(
    name="small",
    vocab_size=10,
    hidden_size=4,
    ffn_hidden_size=6,
    num_layers=2,
    num_attention_heads=2,
    num_query_groups=1,
    head_dim=8,
)


def test_a_small_model_counted_by_hand() -> None:
    # a layer: q 16×4 + k 8×4 + v 8×4 + o 4×16, gate, up and down 6×4 each, two norms of 4
    layer = 64 + 32 + 32 + 64 + 3 * 24 + 2 * 4
    assert count_one_embedding(SMALL) == 10 * 4 + 2 * layer + 4
    assert count_parameters(SMALL) == 2 * 10 * 4 + 2 * layer + 4


def test_tied_embeddings_are_one_matrix_by_either_count() -> None:
    tied = SMALL.replace(tie_word_embeddings=True)
    assert count_parameters(tied) == count_one_embedding(tied) == count_one_embedding(SMALL)


def test_the_original_model_counted_by_hand() -> None:
    attention = 4096 * (4096 + 1024 + 1024 + 4096)
    layer = attention + 3 * 4096 * 14336 + 2 * 4096
    assert count_one_embedding(BIELIK_11B_V3) == 32128 * 4096 + 50 * layer + 4096
    difference = count_parameters(BIELIK_11B_V3) - count_one_embedding(BIELIK_11B_V3)
    assert difference == 32128 * 4096


@pytest.mark.parametrize("name", TABLE_2)
def test_totals_of_the_reports_table_2(name: str) -> None:
    printed = BY_ARITHMETIC.get(name, TABLE_2[name])
    assert f"{count_one_embedding(ARCHS[name]) / 1e9:.2f}" == printed


@pytest.mark.parametrize("name", TABLE_3)
def test_reductions_of_the_reports_table_3(name: str) -> None:
    assert f"{reduction_percent(BIELIK_11B_V3, ARCHS[name]):.1f}" == TABLE_3[name]


def test_on_disk_counts_hold_both_embeddings() -> None:
    assert f"{count_parameters(BIELIK_11B_V3) / 1e9:.2f}" == "11.17"
    assert f"{count_parameters(BIELIK_MINITRON_7B) / 1e9:.2f}" == "7.48"


def test_reduction_of_a_model_by_itself_is_zero() -> None:
    assert reduction_percent(SMALL, SMALL) == 0


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("head_dim", [8, 32])
@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_transformers_counts_the_same(model_type: str, head_dim: int, tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    arch = tiny(BIELIK_MINITRON_7B).replace(
        model_type=model_type,
        head_dim=head_dim,
        tie_word_embeddings=tied,
        num_layers=2,
        vocab_size=64,
    )
    config = transformers.AutoConfig.for_model(**arch.to_hf_config())
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert type(model).__name__ == arch.family.architecture
    assert count_parameters(arch) == sum(p.numel() for p in model.parameters())
