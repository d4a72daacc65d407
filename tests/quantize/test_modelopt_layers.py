"""Which layers are quantised: patterns, ends, and what a format cannot hold."""

import pytest

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import ConfigError
from nemo_bielik.quantize.modelopt_layers import PrecisionConfig, choose_layers


@pytest.fixture(scope="module")
def arch() -> ModelArch:
    """Four layers of seven matrices; rows of 24 and, in down_proj, of 32."""
    return ModelArch(
        name="small",
        num_layers=4,
        hidden_size=24,
        ffn_hidden_size=32,
        num_attention_heads=4,
        num_query_groups=2,
        head_dim=8,
        vocab_size=48,
    )


def test_every_linear_layer_is_quantised_unless_asked_otherwise(arch):
    found = choose_layers(arch, PrecisionConfig(format="fp8"))
    assert len(found.quantized) == 4 * 7
    assert not found.kept


def test_ends_and_patterns_are_kept(arch):
    config = PrecisionConfig(format="fp8", keep_first=1, keep_last=1, keep=["*.2.mlp.*"])
    found = choose_layers(arch, config)
    assert set(found.quantized) == {
        f"model.layers.{layer}.{suffix}"
        for layer in (1, 2)
        for suffix in (
            *(f"self_attn.{name}_proj" for name in "qkvo"),
            *(f"mlp.{name}_proj" for name in ("gate", "up", "down") if layer == 1),
        )
    }
    assert not found.unfit


def test_rows_that_blocks_do_not_divide_are_kept_and_named(arch):
    found = choose_layers(arch, PrecisionConfig(format="nvfp4"))
    assert set(found.quantized) == {
        f"model.layers.{layer}.{suffix}"
        for layer in range(4)
        for suffix in ("self_attn.o_proj", "mlp.down_proj")
    }
    assert found.unfit["model.layers.0.mlp.up_proj"] == (
        "rows of 24 are not divisible by blocks of 16"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "nvfp5"}, r"format is 'nvfp5' \(did you mean 'nvfp4'\?\); known are fp8"),
        ({"format": "INT4_AWQ"}, r"did you mean 'int4-awq'"),
        ({"format": "fp8", "keep_first": -1}, "keep_first is -1; it must be 0 or more"),
        ({"format": "fp8", "keep": ["*.9.*"]}, r"keep: '\*.9.\*' fits no linear layer"),
        ({"format": "fp8", "keep": ["*q_proj"]}, "names .*q_proj but not .*k_proj; servers join"),
        ({"format": "fp8", "keep_first": 4}, r"leaves no linear layer .*\(as asked\)"),
        ({"format": "int4-awq"}, "rows of 24 are not divisible by blocks of 128"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arch, settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        choose_layers(arch, PrecisionConfig(**settings))
    assert "\n" not in str(error.value)
