"""A teacher cache is asked for with sound settings, its size known before, and read in place of a
teacher."""

import sys
from pathlib import Path

import pytest
import small_cache

from nemo_bielik.checkpoint import Checkpoint, copy_tokenizer
from nemo_bielik.cli import main
from nemo_bielik.distill.cache_stage import (
    CacheTeacherConfig,
    cache_for,
    cache_teacher,
    prepare,
)
from nemo_bielik.distill.stage import DistillConfig, distill
from nemo_bielik.errors import CheckpointError, ConfigError, DataError, StorageError
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig


def settings(**changes):
    names = ("teacher", "train_data", "output")
    return CacheTeacherConfig(**{name: Path(name) for name in names} | changes)


@pytest.mark.parametrize(("asked", "precision"), [("student", "bf16"), ("fp32", "fp32")])
def test_the_cache_for_a_distillation_is_made_as_its_teacher_would_run(asked, precision):
    paths = {name: Path(name) for name in ("model", "teacher", "train_data", "output")}
    changes = {"precision": "bf16", "teacher_precision": asked, "temperature": 2.0, "seed": 5}
    made = cache_for(DistillConfig(**paths, **changes), Path("cache"))
    assert (made.precision, made.temperatures, made.seed) == (precision, [2.0], 5)
    assert (made.teacher, made.output) == (Path("teacher"), Path("cache"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": 0}, "k is 0; it must be at least 1"),
        ({"shard_rows": 0}, "shard_rows is 0; it must be at least 1"),
        ({"dtype": "int8"}, "dtype is 'int8'; allowed are float16, float32"),
        ({"temperatures": []}, "temperatures is []; give different ones, finite and above 0"),
        ({"temperatures": [1.0, 0.0]}, "temperatures is [1.0, 0.0]; give different ones"),
        ({"temperatures": [2.0, 2.0]}, "temperatures is [2.0, 2.0]; give different ones"),
    ],
)
def test_a_bad_setting_is_one_line(changes, words):
    with pytest.raises(ConfigError) as caught:
        settings(**changes)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_no_more_tokens_are_kept_than_there_are():
    assert settings(k=48).record_layout(48).k == 48
    with pytest.raises(ConfigError, match="k is 49; the teacher's vocabulary has 48 tokens"):
        settings(k=49).record_layout(48)


def test_a_shard_fits_into_memory():
    """All of 32,128 tokens are 192,768 bytes a position: five rows of 1,024 are below 1 GiB."""
    config = settings(k=32_128, dtype="float32", sequence_length=1024, shard_rows=64)
    assert config.rows_per_shard(config.record_layout(32_128)) == 5
    assert settings().rows_per_shard(settings().record_layout(32_128)) == 64


@pytest.fixture
def run(tmp_path, make_model, tokenizer_directory, monkeypatch):
    """Settings on real directories, where the engine cannot be imported."""
    for module in ("engine", "teacher_pass"):
        monkeypatch.setitem(sys.modules, f"nemo_bielik.megatron.{module}", None)
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    (tokens / "tokens.idx").touch()
    Manifest(stage="tokenize", config={}, results={"end_of_document": 2}).save(tokens)
    model = make_model(vocab_size=40)
    copy_tokenizer(tokenizer_directory, model)
    return settings(
        teacher=model,
        train_data=tokens,
        output=tmp_path / "cache",
        sequence_length=16,
        iters=20,
        k=4,
    )


def changed(config, **changes):
    return type(config)(**vars(config) | changes)


def test_the_dry_run_knows_the_size(run, capsys):
    """640 training and 256 held-out rows of 16 tokens, each 4 · (2 + 4) + 2 · 4 bytes."""
    words = [f"{name}={getattr(run, name)}" for name in ("teacher", "output")]
    words += [f"train_data={run.train_data[0]}"]
    words += [f"validation_data={run.train_data[0]}", "sequence_length=16", "iters=20", "k=4"]
    words += ["dtype=float32", "--temperatures", "1", "2", "--dry-run"]
    assert main(["cache-teacher", *words]) == 0
    said = capsys.readouterr().out
    assert "896 sequences of 16 tokens" in said
    assert "32 bytes a token that carries loss: 4 of 40 tokens in float32" in said
    assert f"{896 * 16 * 32:,} bytes at most" in said
    assert not run.output.exists()


def test_the_engine_is_what_an_unfinished_run_needs(run):
    with pytest.raises(ImportError, match=r"nemo_bielik\.megatron\.teacher_pass"):
        cache_teacher(run)


def finish(run):
    small_cache.write(run.output)
    manifest = prepare(run, Checkpoint.open(run.teacher))
    results = Manifest.load(run.output).results | {"vocab_size": 40}
    Manifest(
        stage=manifest.stage,
        config=manifest.config,
        inputs=manifest.inputs,
        seed=manifest.seed,
        results=results,
    ).save(run.output)
    copy_tokenizer(run.teacher, run.output)


def test_a_finished_cache_is_not_written_again_on_another_layout(run):
    finish(run)
    cache_teacher(changed(run, micro_batch_size=4, parallel=ParallelConfig(data=2)))


@pytest.mark.parametrize("change", [{"k": 5}, {"seed": 2}, {"precision": "bf16"}])
def test_another_content_never_overwrites_it(run, change):
    finish(run)
    with pytest.raises(StorageError, match=f"another .*{next(iter(change))}"):
        cache_teacher(changed(run, **change))


@pytest.fixture
def student(run):
    """Settings of a distillation from the finished cache."""
    finish(run)
    return DistillConfig(
        model=run.teacher,
        cache=run.output,
        train_data=run.train_data,
        output=run.output.with_name("student"),
        sequence_length=16,
        iters=20,
    )


def test_a_cache_takes_the_place_of_the_teacher(student):
    with pytest.raises(ImportError, match=r"nemo_bielik\.megatron\.engine"):
        distill(student)


@pytest.mark.parametrize("teacher", [None, Path("teacher")])
def test_exactly_one_of_teacher_and_cache_is_given(student, teacher):
    cache = None if teacher is None else student.cache
    with pytest.raises(ConfigError, match=r"^of teacher and cache, .* is given; give exactly one$"):
        changed(student, teacher=teacher, cache=cache)


def test_the_stock_engine_needs_the_teacher_itself(student):
    with pytest.raises(ConfigError, match=r"^engine=stock runs the teacher itself"):
        changed(student, engine="stock")


def test_a_cache_that_does_not_serve_ends_before_the_engine_is_loaded(
    student, make_model, tokenizer_directory
):
    with pytest.raises(ConfigError, match=r"^temperature is 1\.5; .* holds the remainder for 1, 2"):
        distill(changed(student, temperature=1.5))
    with pytest.raises(DataError, match="vocabulary of 40, but the student's is 48"):
        distill(changed(student, model=make_model(vocab_size=48)))
    other = make_model(vocab_size=40)
    copy_tokenizer(tokenizer_directory, other)
    path = other / "tokenizer_config.json"
    path.write_text(path.read_text().replace('"</s>"', '"słowo0"'), encoding="utf-8")
    with pytest.raises(CheckpointError, match="have different tokenizers: eos_id is"):
        distill(changed(student, model=other))
