"""Bytes of weights and of the key/value cache, against arithmetic by hand and real tensors."""

import pytest

from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B, ModelArch, tiny
from nemo_bielik.planner.memory import kv_cache_bytes, weights_bytes
from nemo_bielik.planner.parameters import count_parameters

SMALL = ModelArch(
    name="small",
    vocab_size=10,
    hidden_size=40,
    ffn_hidden_size=64,
    num_layers=3,
    num_attention_heads=2,
    num_query_groups=1,
    head_dim=16,
)
#: Linear layers of one SMALL layer as (rows, columns): q k v o gate up down.
LINEAR = ((32, 40), (16, 40), (16, 40), (40, 32), (64, 40), (64, 40), (40, 64))
#: Elements that stay in bf16: two embeddings, norms.
OTHERS = 2 * 10 * 40 + 3 * 2 * 40 + 40


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("bf16", 2)])
def test_plain_formats_are_elements_times_their_size(precision: str, size: int) -> None:
    assert weights_bytes(SMALL, precision) == size * count_parameters(SMALL)


def test_fp8_keeps_embeddings_and_norms_and_adds_a_scale_a_tensor() -> None:
    linear = sum(rows * columns + 4 for rows, columns in LINEAR)
    assert weights_bytes(SMALL, "fp8") == 3 * linear + 2 * OTHERS


def test_nvfp4_adds_a_byte_per_block_of_sixteen_rounded_up_in_each_row() -> None:
    # 40 columns are 20 bytes and 3 blocks (the last one half empty); 64 are 32 and 4; 32: 16 and 2
    row_bytes = {40: 20 + 3, 64: 32 + 4, 32: 16 + 2}
    linear = sum(rows * row_bytes[columns] + 4 for rows, columns in LINEAR)
    assert weights_bytes(SMALL, "nvfp4") == 3 * linear + 2 * OTHERS


def test_nvfp4_is_four_and_a_half_bits_a_weight_of_a_large_linear_layer() -> None:
    per_layer = weights_bytes(BIELIK_11B_V3, "nvfp4") - weights_bytes(
        BIELIK_11B_V3.replace(num_layers=49), "nvfp4"
    )
    elements = 4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 14336
    assert per_layer == elements * 4.5 / 8 + 7 * 4 + 2 * 2 * 4096


def test_kv_cache_by_hand() -> None:
    # keys and values, 50 layers, 8 groups of 128, 2 bytes, 4,096 tokens: 0.78 GiB
    assert kv_cache_bytes(BIELIK_11B_V3, "bf16", 4096) == 2 * 50 * 8 * 128 * 2 * 4096
    assert kv_cache_bytes(BIELIK_11B_V3, "fp8", 4096) == 2 * 50 * 8 * 128 * 4096
    assert kv_cache_bytes(BIELIK_11B_V3, "nvfp4", 4096) == 2 * 50 * 8 * (64 + 8) * 4096
    assert kv_cache_bytes(BIELIK_11B_V3, "bf16", 8, sequences=3) == 24 * kv_cache_bytes(
        BIELIK_11B_V3, "bf16", 1
    )


def test_kv_cache_of_a_real_forward_pass() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    arch = tiny(BIELIK_MINITRON_7B).replace(num_layers=3, head_dim=24, vocab_size=64)
    config = transformers.AutoConfig.for_model(**arch.to_hf_config())
    model = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    with torch.no_grad():
        cache = model(torch.zeros(2, 7, dtype=torch.long), use_cache=True).past_key_values
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    assert kv_cache_bytes(arch, "bf16", 7, sequences=2) == sum(t.nbytes for t in tensors)
