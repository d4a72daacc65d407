"""Settings of a run: what is refused, in which words, and what a run starts from."""

import dataclasses
import sys
from pathlib import Path

import pytest

from nemo_bielik.arch import ModelArch
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.sources import tokens_fingerprint
from nemo_bielik.errors import CheckpointError, ConfigError, DataError
from nemo_bielik.parallel import ParallelConfig, check_layout
from nemo_bielik.phases import Phase
from nemo_bielik.quantize.fake_quantization import FakeQuantizationConfig
from nemo_bielik.stages import stage_output, work_directory
from nemo_bielik.training import (
    LoggingConfig,
    LoraConfig,
    OptimConfig,
    StabilityConfig,
    TrainConfig,
    TrainSettings,
    prepare,
    train,
)

NAN = float("nan")


def refusal(action):
    """Return the one line that `action` is refused with."""
    with pytest.raises(ConfigError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "prefix", "name", "value", "allowed"),
    [
        *((ParallelConfig, "parallel.", n, 0, "at least 1") for n in ("tensor", "pipeline")),
        (ParallelConfig, "parallel.", "data", -1, "at least 1"),
        (OptimConfig, "optim.", "max_lr", 0.0, "finite and above 0"),
        (OptimConfig, "optim.", "max_lr", NAN, "finite and above 0"),
        (OptimConfig, "optim.", "min_lr", -1e-6, "between 0 and max_lr"),
        (OptimConfig, "optim.", "min_lr", 1.0, "between 0 and max_lr"),
        (OptimConfig, "optim.", "min_lr", NAN, "between 0 and max_lr"),
        (OptimConfig, "optim.", "warmup_iters", -1, "0 or more"),
        (OptimConfig, "optim.", "weight_decay", -0.1, "0 or more"),
        (OptimConfig, "optim.", "clip_grad", -1.0, "0 (off) or more"),
        *(
            (TrainSettings, "", name, 0, "at least 1")
            for name in (
                "iters",
                "sequence_length",
                "global_batch_size",
                "micro_batch_size",
                "eval_iters",
                "seed",
            )
        ),
        (LoraConfig, "lora.", "rank", -1, "0 (off) or more"),
        (LoraConfig, "lora.", "alpha", 0.0, "finite and above 0"),
        (LoraConfig, "lora.", "alpha", NAN, "finite and above 0"),
        *(
            (StabilityConfig, "stability.", name, value, "finite and 0 (off) or more")
            for name in ("loss_spike", "grad_norm_limit")
            for value in (-1.0, NAN)
        ),
        (StabilityConfig, "stability.", "window", 9, "at least 10"),
        (StabilityConfig, "stability.", "max_incidents", 0, "at least 1"),
        (TrainSettings, "", "eval_interval", -1, "0 (never) or more"),
        (TrainSettings, "", "save_interval", -1, "0 (never) or more"),
    ],
)
def test_a_value_out_of_range_names_field_value_and_what_is_allowed(
    kind, prefix, name, value, allowed
):
    message = refusal(lambda: kind(**{name: value}))
    assert message == f"{prefix}{name} is {value!r}; it must be {allowed}"


def test_an_unknown_policy_names_those_that_are_allowed():
    message = refusal(lambda: StabilityConfig(policy="ignore"))
    assert message == "policy is 'ignore'; allowed are stop, skip, rollback"


def test_rolling_back_needs_checkpoints_to_roll_back_to():
    stability = StabilityConfig(policy="rollback")
    message = refusal(lambda: TrainSettings(stability=stability))
    assert message == "stability.policy=rollback needs a save_interval above 0"
    TrainSettings(stability=stability, save_interval=1)


def test_the_limits_themselves_are_allowed():
    StabilityConfig(loss_spike=0.0, grad_norm_limit=0.0, window=10, max_incidents=1)
    ParallelConfig(tensor=1, pipeline=1, data=1)
    OptimConfig(max_lr=1e-3, min_lr=1e-3, warmup_iters=0, weight_decay=0, clip_grad=0)
    OptimConfig(min_lr=0)
    TrainSettings(
        iters=1,
        sequence_length=1,
        global_batch_size=1,
        micro_batch_size=1,
        eval_iters=1,
        seed=1,
        optim=OptimConfig(warmup_iters=0),
    )


def test_stages_take_one_sequence_a_micro_batch_in_bf16():
    several = {"micro_batch_size": 2, "parallel": ParallelConfig(pipeline=2)}
    message = refusal(lambda: TrainSettings(precision="bf16", **several))
    assert message.startswith("micro_batch_size is 2; in bf16 with parallel.pipeline above 1 it")
    TrainSettings(precision="fp32", **several)  # on CPUs, where a micro-batch is no packed row


def test_the_batch_must_split_into_micro_batches_over_the_data_axis():
    message = refusal(
        lambda: TrainSettings(
            global_batch_size=12, micro_batch_size=4, parallel=ParallelConfig(data=2)
        )
    )
    assert message.startswith("global_batch_size is 12; it must be a multiple of")
    assert message.endswith("micro_batch_size × parallel.data = 8")
    # tensor and pipeline ranks share a batch: they do not divide it
    TrainSettings(
        global_batch_size=16,
        micro_batch_size=4,
        parallel=ParallelConfig(data=2, tensor=3, pipeline=3),
    )


def test_the_best_weights_need_validations():
    assert "eval_interval" in refusal(lambda: TrainSettings(keep="best"))
    assert TrainSettings(keep="best", eval_interval=10).keep == "best"


def test_warm_up_ends_before_the_run_does():
    message = refusal(lambda: TrainSettings(iters=10, optim=OptimConfig(warmup_iters=10)))
    assert message == "optim.warmup_iters is 10; it must be below iters (10)"
    TrainSettings(iters=11, optim=OptimConfig(warmup_iters=10))


def test_tensor_ranks_share_the_rank_of_adapters():
    settings = {"lora": LoraConfig(rank=6), "optim": OptimConfig(warmup_iters=0)}
    message = refusal(lambda: TrainSettings(**settings, parallel=ParallelConfig(tensor=4)))
    assert message == "lora.rank is 6; it must be a multiple of parallel.tensor (4)"
    TrainSettings(**settings, parallel=ParallelConfig(tensor=3))


def test_adapters_would_fill_the_zeros_that_are_to_be_kept():
    message = refusal(lambda: TrainSettings(lora=LoraConfig(rank=8), keep_zeros=True))
    assert message.startswith("lora.rank and keep_zeros exclude each other")


def test_tokens_are_steps_times_sequences_times_length():
    settings = TrainSettings(
        iters=7,
        sequence_length=11,
        global_batch_size=26,
        micro_batch_size=13,
        optim=OptimConfig(warmup_iters=0),
    )
    assert settings.tokens == 2002  # 7 · 11 · 26; micro-batches are not counted again


def test_fields_build_the_same_settings_again(tmp_path):
    settings = TrainSettings(
        iters=50,
        sequence_length=64,
        global_batch_size=8,
        micro_batch_size=2,
        eval_interval=10,
        eval_iters=3,
        save_interval=25,
        stop_after=20,
        keep="best",
        keep_zeros=True,
        lora=LoraConfig(alpha=8.0),  # a rank would exclude keep_zeros
        quantization=FakeQuantizationConfig(format="fp8"),
        stability=StabilityConfig(policy="skip"),
        precision="bf16",
        recompute=True,
        async_save=False,
        seed=4,
        packing="cut",
        phases=[Phase(iters=40, global_batch_size=16), Phase(iters=10, micro_batch_size=4)],
        optim=OptimConfig(max_lr=1e-3, min_lr=1e-4),
        parallel=ParallelConfig(tensor=2, data=2),
        logging=LoggingConfig(peak_tflops=1.0),
    )
    assert TrainSettings(**settings.fields()) == settings
    default = TrainSettings()
    changed = [f.name for f in dataclasses.fields(TrainSettings) if f.name != "parallel"]
    assert all(getattr(settings, name) != getattr(default, name) for name in changed)
    config = TrainConfig(
        model=tmp_path,
        train_data=tmp_path,
        validation_data=tmp_path,
        output=tmp_path,
        **settings.fields(),
    )
    assert config.fields() == settings.fields()  # of a config too, only what is a setting


def test_shares_of_a_blend_are_checked(tmp_path):
    def blended(**values):
        return TrainConfig(
            **{"model": tmp_path, "output": tmp_path, "train_data": tmp_path} | values
        )

    assert blended(train_data=str(tmp_path)).train_data == [tmp_path]
    message = refusal(lambda: blended(train_data=[tmp_path, tmp_path], train_weights=[1]))
    assert message.startswith("train_weights has 1 values for 2 directories")
    message = refusal(lambda: blended(train_weights=[0.0]))
    assert message == "train_weights is [0.0]; each must be finite and above 0"
    assert "train_data is []" in refusal(lambda: blended(train_data=[]))


def test_validations_need_held_out_text(tmp_path):
    paths = {"model": tmp_path, "train_data": tmp_path, "output": tmp_path}
    message = refusal(lambda: TrainConfig(**paths, eval_interval=10))
    assert "eval_interval needs validation_data" in message
    assert TrainConfig(**paths).validation_data is None


#: heads 12, groups 4, ffn 10 and vocabulary 14 share only 2 as a divisor.
ARCH = ModelArch(
    name="odd",
    vocab_size=14,
    hidden_size=24,
    ffn_hidden_size=10,
    num_layers=3,
    num_attention_heads=12,
    num_query_groups=4,
    head_dim=2,
    max_position_embeddings=32,
)


def layout(arch=ARCH, sequence_length=32, config=None, **axes):
    checkpoint = Checkpoint(Path(), arch, config or {}, {})
    check_layout(ParallelConfig(**axes), sequence_length, checkpoint)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def test_a_layout_that_fits_is_silent():
    layout()
    layout(tensor=2, pipeline=3, data=7)


@pytest.mark.parametrize("steps", [[10], [12, 10], [0, 2], [1, 2, 3]], ids=str)
def test_profiled_steps_are_a_first_and_a_last_one(steps):
    message = refusal(lambda: LoggingConfig(profile_steps=steps))
    assert message.startswith(f"logging.profile_steps is {steps}; give the first and the last step")


@pytest.mark.parametrize(
    ("changes", "tensor", "words"),
    [
        ({"num_attention_heads": 4, "num_query_groups": 2}, 3, "num_attention_heads (4)"),
        ({}, 3, "num_query_groups (4)"),
        ({}, 4, "ffn_hidden_size (10)"),
        ({"ffn_hidden_size": 12}, 4, "vocab_size (14)"),
    ],
)
def test_what_tensor_ranks_cannot_share_is_named(changes, tensor, words):
    message = refusal(lambda: layout(ARCH.replace(**changes), tensor=tensor))
    assert message == f"odd: {words} is not divisible by parallel.tensor ({tensor})"


def test_every_pipeline_stage_needs_a_layer():
    message = refusal(lambda: layout(pipeline=4))
    assert message == "odd: 3 layers cannot fill parallel.pipeline (4) stages"


def test_sequences_fit_the_positions():
    message = refusal(lambda: layout(sequence_length=33))
    assert message == "sequence_length is 33; odd knows 32 positions"


def test_sequences_fit_the_sliding_window():
    message = refusal(lambda: layout(config={"sliding_window": 16}))
    assert message.startswith("sequence_length is 32; odd sees a sliding window of 16 tokens")
    layout(config={"sliding_window": 32})
    layout(config={"sliding_window": None})


def test_the_launcher_must_have_started_what_the_layout_needs(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    message = refusal(lambda: layout(tensor=2))
    assert (
        message == "launched with 4 processes, but parallel.tensor × pipeline × data × context = 2"
    )
    layout(tensor=2, data=2)


def test_the_work_directory_is_a_hidden_neighbour():
    assert work_directory(Path("runs/models/teacher")) == Path("runs/models/.teacher.work")


@pytest.fixture
def config(tmp_path, make_model, monkeypatch, write_tokens):
    """Settings of a run on real directories, where the engine cannot be imported."""
    monkeypatch.setitem(sys.modules, "nemo_bielik.megatron.engine", None)
    return TrainConfig(
        model=make_model(),
        train_data=write_tokens(tmp_path / "train"),
        output=tmp_path / "output",
        sequence_length=16,
        seed=5,
    )


def test_the_manifest_names_what_the_run_starts_from(config, tmp_path, write_tokens):
    manifest = prepare("train", config, {"teacher": "hash"})
    assert manifest.inputs == {
        "model": Checkpoint.open(config.model).fingerprint(),
        "train_data": tokens_fingerprint(config.train_data[0]),
        "teacher": "hash",
    }
    assert (manifest.stage, manifest.seed) == ("train", 5)
    assert manifest.config["optim"]["max_lr"] == config.optim.max_lr
    held_out = write_tokens(tmp_path / "held-out", config={"inputs": ["c"]})
    with_held_out = dataclasses.replace(config, validation_data=held_out, eval_interval=5)
    assert prepare("train", with_held_out, {}).inputs["validation_data"] == tokens_fingerprint(
        held_out
    )


def test_the_manifest_names_every_part_of_a_blend(config, tmp_path, write_tokens):
    parts = [
        write_tokens(tmp_path / name, config={"inputs": [name]}) for name in ("first", "second")
    ]
    phases = [Phase(iters=500), Phase(iters=500, train_data=[parts[1]])]
    config = dataclasses.replace(config, train_data=parts, phases=phases, save_interval=100)
    inputs = prepare("train", config, {}).inputs
    first, second = map(tokens_fingerprint, parts)
    assert first != second
    assert {name: inputs[name] for name in inputs if name != "model"} == {
        "train_data[0]": first,
        "train_data[1]": second,
        "phases[1].train_data": second,
    }


def test_all_tokens_of_a_run_are_of_one_tokenizer(config, tmp_path, write_tokens):
    for name, changes in {
        "other": {"inputs": {"tokenizer": "b"}},
        "ending": {"results": {"end_of_document": 3}},
    }.items():
        other = write_tokens(tmp_path / name, **changes)
        mixed = dataclasses.replace(config, train_data=[*config.train_data, other])
        with pytest.raises(DataError, match=rf"train_data\[1\].*{name}.*tokenizers") as caught:
            prepare("train", mixed, {})
        assert "\n" not in str(caught.value)


def test_conversations_are_not_cut(config):
    (config.train_data[0] / "loss.bin").touch()
    prepare("train", config, {})
    message = refusal(lambda: prepare("train", dataclasses.replace(config, packing="cut"), {}))
    assert message.startswith("packing=cut would cut the conversations of")


def test_what_is_missing_is_said_before_the_engine_is_loaded(config, tmp_path):
    nowhere = tmp_path / "nowhere"
    for name, kind in [("model", CheckpointError), ("train_data", DataError)]:
        with pytest.raises(kind, match="nowhere") as caught:
            train(dataclasses.replace(config, **{name: nowhere}))
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="nowhere"):
        train(dataclasses.replace(config, validation_data=nowhere))
    with pytest.raises(ConfigError, match="knows 64 positions"):
        train(dataclasses.replace(config, sequence_length=65))


def test_a_finished_run_is_not_repeated(config):
    with pytest.raises(ImportError, match=r"nemo_bielik\.megatron\.engine"):
        train(config)
    with stage_output(config.output, prepare("train", config, {}), {}) as scratch:
        (scratch / "weights").touch()
    train(config)
