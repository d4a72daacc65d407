"""Bytes of training against arithmetic by hand; counted on real models in tests/megatron."""

from dataclasses import replace

import pytest

from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B, ModelArch
from nemo_bielik.planner.parameters import count_parameters
from nemo_bielik.planner.training_memory import (
    FRAGMENTS,
    Layout,
    Workload,
    layer_activation_bytes,
    peak_memory,
    stage_memory,
    stage_parameters,
)

ARCH = ModelArch(
    name="by-hand",
    vocab_size=10,
    hidden_size=8,
    ffn_hidden_size=12,
    num_layers=3,
    num_attention_heads=4,
    num_query_groups=2,
    head_dim=2,
)
#: Matrices of a layer: q and o 8×8, k and v 4×8, three of 12×8; its two norms.
LAYER, NORMS, EMBEDDING = 2 * 64 + 2 * 32 + 3 * 96, 2 * 8, 80
ONE = Layout(tensor=1, pipeline=1, data=1, micro_batch_size=1, sequence=False, recompute=False)


def test_one_rank_holds_everything() -> None:
    assert stage_parameters(ARCH, ONE, 0) == 3 * (LAYER + NORMS) + 2 * EMBEDDING + 8
    assert stage_parameters(BIELIK_11B_V3, ONE, 0) == count_parameters(BIELIK_11B_V3)


def test_tensor_ranks_share_matrices_and_repeat_norms() -> None:
    split = replace(ONE, tensor=2)
    assert stage_parameters(ARCH, split, 0) == 3 * (LAYER // 2 + NORMS) + EMBEDDING + 8


def test_stages_hold_their_layers_and_the_ends_their_embeddings() -> None:
    split = replace(ONE, pipeline=2)  # two layers, then one
    assert stage_parameters(ARCH, split, 0) == 2 * (LAYER + NORMS) + EMBEDDING
    assert stage_parameters(ARCH, split, 1) == LAYER + NORMS + EMBEDDING + 8


def test_tied_embeddings_stand_on_the_last_stage_too() -> None:
    tied = ARCH.replace(tie_word_embeddings=True)
    assert stage_parameters(tied, ONE, 0) == 3 * (LAYER + NORMS) + EMBEDDING + 8
    split = replace(ONE, pipeline=3)
    assert stage_parameters(tied, split, 2) == LAYER + NORMS + EMBEDDING + 8


def test_a_token_of_a_layer_keeps_what_the_formula_says() -> None:
    # inputs 8 × 8; queries and attention's output 2 × 2 × 8, keys and values 2 × 2 × 4; MLP 6 × 12
    whole, split = 8 * 8, 4 * 8 + 4 * 4 + 6 * 12
    assert layer_activation_bytes(ARCH, ONE, 5) == 5 * (whole + split)
    tensor = replace(ONE, tensor=2)
    assert layer_activation_bytes(ARCH, tensor, 5) == 5 * (whole + split / 2)
    assert (
        layer_activation_bytes(ARCH, replace(tensor, sequence=True), 5) == 5 * (whole + split) / 2
    )


WORK = Workload(student=ARCH, teacher=None, sequence_length=16, global_batch_size=8)


def test_weights_gradients_and_optimizer_by_hand() -> None:
    held = 3 * (LAYER + NORMS) + 2 * EMBEDDING + 8
    parts = stage_memory(WORK, replace(ONE, data=4), 0)
    assert parts["weights"] == 2 * held
    assert parts["gradients"] == 4 * held
    assert parts["optimizer"] == 12 * held / 4
    assert parts["teacher"] == 0
    rest = sum(size for name, size in parts.items() if name != "fragments")
    assert parts["fragments"] == pytest.approx(FRAGMENTS * rest)


def test_the_first_stage_keeps_a_micro_batch_for_every_stage_after_it() -> None:
    split = replace(ONE, pipeline=3)
    row = layer_activation_bytes(ARCH, split, 16)
    for stage, in_flight in enumerate((3, 2, 1)):
        assert stage_memory(WORK, split, stage)["activations"] == in_flight * row
    two = replace(WORK, global_batch_size=2)  # never more than there are
    assert stage_memory(two, split, 0)["activations"] == 2 * row


def test_recomputation_keeps_inputs_and_one_layer() -> None:
    row, layers = layer_activation_bytes(ARCH, ONE, 16), 3
    parts = stage_memory(WORK, replace(ONE, recompute=True), 0)
    assert parts["activations"] == layers * 2 * 16 * 8 + row


def test_context_ranks_share_tokens_and_the_optimizer_and_gather_keys_and_values() -> None:
    split, held = replace(ONE, data=2, context=2), stage_parameters(ARCH, ONE, 0)
    whole = stage_memory(WORK, replace(ONE, data=2), 0)
    parts = stage_memory(WORK, split, 0)
    assert parts["optimizer"] == 12 * held / 4
    assert parts["weights"] == whole["weights"] and parts["gradients"] == whole["gradients"]
    # half of all rows but of keys and values, 2 × 2 × 4 a token; a mask of 8 queries by 16 keys;
    # of each of 8 tokens attention's output once more
    gathered, again, mask = 3 * 16 * 2 * 2 * 4 / 2, 3 * 8 * 2 * 8, 3 * 8 * 16
    assert parts["activations"] == whole["activations"] / 2 + gathered + again + mask
    again = stage_memory(WORK, replace(split, recompute=True), 0)["activations"]
    assert again == 3 * 2 * 8 * 8 + layer_activation_bytes(ARCH, split, 8) + mask


def test_a_teacher_costs_its_weights_and_one_layer_for_a_moment() -> None:
    pair = replace(WORK, teacher=ARCH)
    held = 3 * (LAYER + NORMS) + 2 * EMBEDDING + 8
    row = layer_activation_bytes(ARCH, ONE, 16)
    assert stage_memory(pair, ONE, 0)["teacher"] == 2 * held + row


def test_the_fullest_stage_decides() -> None:
    split = replace(ONE, pipeline=3)
    peak = peak_memory(WORK, split)
    assert peak in [stage_memory(WORK, split, stage) for stage in range(3)]
    totals = [sum(stage_memory(WORK, split, stage).values()) for stage in range(3)]
    assert sum(peak.values()) == max(totals)


def test_the_report_kept_both_models_whole_on_an_h200() -> None:
    """Section 5.1: 141 GB held both without offloading or intensive tensor parallelism."""
    work = Workload(BIELIK_MINITRON_7B, BIELIK_11B_V3, 4096, 768)
    alone = replace(ONE, data=16)
    assert sum(peak_memory(work, alone).values()) < 141e9
    # on 80 GB it would not have been possible
    assert sum(peak_memory(work, replace(alone, recompute=True)).values()) > 80e9
