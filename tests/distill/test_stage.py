"""Distillation starts only from a pair that speaks the same tokens and from sound settings."""

import json
import shutil
import sys

import pytest

from nemo_bielik.arch import ModelArch
from nemo_bielik.checkpoint import Checkpoint, copy_tokenizer
from nemo_bielik.distill.loss_config import LossConfig
from nemo_bielik.distill.stage import DistillConfig, TeacherParallelConfig, check_pair, distill
from nemo_bielik.errors import CheckpointError, ConfigError, StorageError
from nemo_bielik.manifest import Manifest
from nemo_bielik.options import parse_config
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.stages import stage_output
from nemo_bielik.training import prepare

ARCH = ModelArch(
    name="tiny",
    vocab_size=40,
    hidden_size=8,
    ffn_hidden_size=12,
    num_layers=2,
    num_attention_heads=2,
    num_query_groups=1,
    head_dim=4,
)


@pytest.fixture
def checkpoint(tmp_path, tokenizer_directory):
    """Return a function that makes a checkpoint without weights, its tokenizer.json edited."""

    def make(name, vocab_size=40, edit=None, with_tokenizer=True):
        directory = tmp_path / name
        directory.mkdir()
        if with_tokenizer:
            shutil.copytree(tokenizer_directory, directory, dirs_exist_ok=True)
            path = directory / "tokenizer.json"
            content = json.loads(path.read_text(encoding="utf-8"))
            if edit:
                edit(content["model"]["vocab"])
            path.write_text(json.dumps(content), encoding="utf-8")
        return Checkpoint(directory, ARCH.replace(vocab_size=vocab_size), {}, {})

    return make


def refusal(*checkpoints):
    with pytest.raises(CheckpointError) as caught:
        check_pair(*checkpoints)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_same_tokens_pass(checkpoint):
    check_pair(checkpoint("student"), checkpoint("teacher"))


def test_two_models_without_a_tokenizer_pass(checkpoint):
    check_pair(*(checkpoint(name, with_tokenizer=False) for name in ("student", "teacher")))


def test_other_sizes_of_the_vocabulary_are_named(checkpoint):
    student, teacher = checkpoint("student", 40), checkpoint("teacher", 48)
    message = refusal(student, teacher)
    assert f"{student.directory}: vocabulary of 40" in message
    assert f"{teacher.directory} has 48" in message


def test_a_token_with_another_id_is_named(checkpoint):
    def swap(vocabulary):
        vocabulary["słowo3"], vocabulary["słowo4"] = vocabulary["słowo4"], vocabulary["słowo3"]

    message = refusal(checkpoint("student"), checkpoint("teacher", edit=swap))
    assert "token 'słowo3' is 6 in the first and is 7 in the second" in message
    assert "student" in message
    assert "teacher" in message


def test_a_missing_token_is_named(checkpoint):
    def rename(vocabulary):
        vocabulary["inne"] = vocabulary.pop("słowo5")

    message = refusal(checkpoint("student"), checkpoint("teacher", edit=rename))
    assert "'słowo5' is 8 in the first and is missing from the second" in message


def test_another_end_of_text_is_named(checkpoint):
    teacher = checkpoint("teacher")
    path = teacher.directory / "tokenizer_config.json"
    path.write_text(path.read_text().replace('"</s>"', '"słowo0"'), encoding="utf-8")
    assert "eos_id is 2 in the first and 3 in the second" in refusal(checkpoint("student"), teacher)


def test_a_tokenizer_on_one_side_only_is_refused(checkpoint):
    message = refusal(checkpoint("student"), checkpoint("teacher", with_tokenizer=False))
    assert "teacher" in message
    assert "tokenizer.json" in message


def config(tmp_path, **changes):
    paths = {name: tmp_path / name for name in ("model", "teacher", "train_data", "output")}
    settings = {"sequence_length": 16, "iters": 20, **changes}
    return DistillConfig(**{**paths, **settings})


@pytest.mark.parametrize("temperature", [0, 0.0, -2.0, float("nan")])
def test_a_bad_temperature_is_one_line(tmp_path, temperature):
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, temperature=temperature)
    assert str(caught.value) == f"temperature is {temperature}; it must be above 0"


def test_temperatures_above_zero_are_taken(tmp_path):
    assert config(tmp_path, temperature=0.25).temperature == 0.25


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"divergence": "kl"}, "divergence is 'kl'; allowed are forward-kl, reverse-kl, jensen-"),
        ({"beta": 1.0}, "beta is 1.0; it must be between 0 and 1"),
        ({"label_weight": -0.1}, "label_weight is -0.1; it must be 0 to 1"),
    ],
)
def test_a_bad_loss_is_one_line(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=f"^{words}") as caught:
        config(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_the_command_line_names_the_loss(tmp_path):
    paths = [f"{name}={tmp_path}" for name in ("model", "teacher", "train_data", "output")]
    words = ["divergence=reverse-kl", "temperature=2", "--label-weight", "0.25", "beta=0.1"]
    found = parse_config(DistillConfig, [*paths, *words], "bielik distill").loss
    assert found == LossConfig(
        divergence="reverse-kl", temperature=2.0, label_weight=0.25, beta=0.1
    )
    assert config(tmp_path).loss == LossConfig()


@pytest.mark.parametrize("changes", [{"divergence": "reverse-kl"}, {"label_weight": 0.5}])
def test_the_stock_engine_knows_one_loss(tmp_path, changes):
    assert config(tmp_path, engine="stock", temperature=2.0).engine == "stock"
    with pytest.raises(ConfigError, match=r"^engine=stock knows divergence=forward-kl") as caught:
        config(tmp_path, engine="stock", **changes)
    assert "\n" not in str(caught.value)
    assert str(next(iter(changes.values()))) in str(caught.value)


def test_a_teacher_is_split_as_its_student_unless_told_otherwise(tmp_path):
    layout = ParallelConfig(tensor=2, data=8)
    assert config(tmp_path, parallel=layout, global_batch_size=8).teacher_layout == layout
    paths = [f"{name}={tmp_path}" for name in ("model", "teacher", "train_data", "output")]
    words = ["parallel.tensor=2", "parallel.sequence=true", "parallel.data=8"]
    own = ["teacher_parallel.tensor=1", "teacher_parallel.pipeline=2"]
    found = parse_config(DistillConfig, [*paths, *words, *own], "bielik distill")
    assert found.teacher_layout == ParallelConfig(tensor=1, pipeline=2, data=8)
    found = parse_config(DistillConfig, [*paths, *words, own[1]], "bielik distill")
    assert found.teacher_layout == ParallelConfig(tensor=2, pipeline=2, data=4, sequence=True)


@pytest.mark.parametrize(
    ("tensor", "changes", "words"),
    [
        (3, {}, "teacher_parallel.tensor × pipeline is 3; it must divide the 2 processes of"),
        (-1, {}, "teacher_parallel.tensor is -1; it must be 0"),
        (2, {"engine": "stock"}, "engine=stock splits the teacher as its student"),
    ],
)
def test_a_bad_layout_of_the_teacher_is_one_line(tmp_path, tensor, changes, words):
    with pytest.raises(ConfigError, match=f"^{words}") as caught:
        config(
            tmp_path,
            parallel=ParallelConfig(data=2),
            teacher_parallel=TeacherParallelConfig(tensor=tensor),
            **changes,
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eval_interval": 5}, "eval_interval needs validation_data"),
        ({"keep": "best"}, "keep=best needs an eval_interval"),
        ({"iters": 0}, "iters is 0; it must be at least 1"),
        ({"global_batch_size": 3, "micro_batch_size": 2}, "global_batch_size is 3"),
    ],
)
def test_settings_of_every_training_run_are_checked_too(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        config(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_validation_and_best_weights_go_together(tmp_path):
    held_out = tmp_path / "held-out"
    assert config(tmp_path, eval_interval=5, keep="best", validation_data=held_out).keep == "best"


@pytest.fixture
def run(tmp_path, make_model, tokenizer_directory, monkeypatch):
    """Settings of a run on real directories, where the engine cannot be imported."""
    monkeypatch.setitem(sys.modules, "nemo_bielik.megatron.engine", None)
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    (tokens / "tokens.idx").touch()
    Manifest(stage="tokenize", config={}).save(tokens)
    models = [make_model(vocab_size=40, seed=seed) for seed in (1, 2)]
    for model in models:
        copy_tokenizer(tokenizer_directory, model)
    return config(tmp_path, model=models[0], teacher=models[1], train_data=tokens)


def finish(run):
    """Leave what a finished run leaves."""
    manifest = prepare("distill", run, {"teacher": Checkpoint.open(run.teacher).fingerprint()})
    with stage_output(run.output, manifest, {}) as scratch:
        (scratch / "weights").touch()


def test_the_engine_is_what_an_unfinished_run_needs(run):
    with pytest.raises(ImportError, match=r"nemo_bielik\.megatron\.engine"):
        distill(run)


def test_a_finished_run_is_not_repeated(run):
    finish(run)
    distill(run)
    assert sorted(path.name for path in run.output.iterdir()) == [
        "bielik_manifest.json",
        "weights",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"temperature": 2.0}, "setting temperature"), ({"seed": 9}, "seed, setting seed")],
)
def test_another_recipe_never_overwrites_a_finished_run(run, change, words):
    finish(run)
    with pytest.raises(StorageError, match=f"another {words}"):
        distill(DistillConfig(**{**vars(run), **change}))


def test_another_teacher_is_another_run(run, make_model, tokenizer_directory):
    finish(run)
    other = make_model(vocab_size=40, seed=3)
    copy_tokenizer(tokenizer_directory, other)
    shutil.rmtree(run.teacher)
    shutil.copytree(other, run.teacher)
    with pytest.raises(StorageError, match="another input teacher"):
        distill(run)


def test_a_pair_that_does_not_fit_ends_before_the_engine_is_loaded(run, make_model):
    with pytest.raises(CheckpointError, match="vocabulary of 40, but its teacher"):
        distill(DistillConfig(**{**vars(run), "teacher": make_model(vocab_size=48)}))


def test_the_teacher_must_know_the_positions_too(run, make_model, tokenizer_directory):
    short = make_model(vocab_size=40, max_position_embeddings=8)
    copy_tokenizer(tokenizer_directory, short)
    with pytest.raises(ConfigError, match=r"sequence_length is 16; .* knows 8 positions"):
        distill(DistillConfig(**{**vars(run), "teacher": short}))
