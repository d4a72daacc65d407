"""FLOPs per token, against arithmetic by hand and torch's own counter."""

import pytest

from nemo_bielik.arch import BIELIK_11B_V3, ModelArch, tiny
from nemo_bielik.planner.flops import (
    attention_flops_per_token,
    forward_flops_per_token,
    linear_flops_per_token,
    training_flops_per_token,
)

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


def test_linear_flops_by_hand() -> None:
    layer = 4 * 16 + 2 * 4 * 8 + 16 * 4 + 3 * 4 * 6
    assert linear_flops_per_token(SMALL) == 2 * (2 * layer + 10 * 4)


def test_a_tied_output_projection_still_computes() -> None:
    tied = SMALL.replace(tie_word_embeddings=True)
    assert linear_flops_per_token(tied) == linear_flops_per_token(SMALL)


def test_causal_attention_counts_the_keys_each_token_sees() -> None:
    keys = sum(range(1, 6))  # five tokens see 1 … 5 keys
    scores_and_values = 2 * (2 * 2 * 8)  # a product with K and one with V, two heads of 8
    total = 5 * attention_flops_per_token(SMALL, 5)
    assert total == 2 * scores_and_values * keys


def test_training_is_three_forwards() -> None:
    assert training_flops_per_token(SMALL, 64) == 3 * forward_flops_per_token(SMALL, 64)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("head_dim", [16, 40])
def test_torch_counts_the_same(head_dim: int, tied: bool) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    arch = tiny(BIELIK_11B_V3).replace(
        num_layers=2, vocab_size=96, head_dim=head_dim, tie_word_embeddings=tied
    )
    config = transformers.AutoConfig.for_model(**arch.to_hf_config())
    config._attn_implementation = "eager"  # computes the whole square, every product counted
    model = transformers.AutoModelForCausalLM.from_config(config)
    tokens, sequences = 24, 3
    ids = torch.zeros(sequences, tokens, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        loss = model(ids, labels=ids).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()

    # transformers makes its rotary table with a matrix product, positions × head_dim / 2
    rotary = 2 * tokens * (head_dim // 2)
    ours = tokens * sequences * forward_flops_per_token(arch, tokens, causal=False)
    assert forward.get_total_flops() == ours + rotary
    trained = tokens * sequences * training_flops_per_token(arch, tokens, causal=False)
    assert backward.get_total_flops() == trained - ours
