"""``bielik align``: its data, its settings and its table; the stages have tests of their own."""

import json
import shutil

import pytest

from nemo_bielik.align.chain import AlignDemoConfig, Alignment, make_data, table
from nemo_bielik.checkpoint import copy_tokenizer
from nemo_bielik.cli import main
from nemo_bielik.data.chat import ChatTokenizer
from nemo_bielik.data.indexed import token_stats
from nemo_bielik.data.tiny_polish.stage import MakeWorldConfig, make_world
from nemo_bielik.data.tokenizer import TokenizerConfig, train_tokenizer
from nemo_bielik.megatron.packing import whole_documents
from nemo_bielik.runs import ALIGNED, FINE_TUNED, REWARDED

PARTS = ("train", "recovery", "calibration", "validation", "test")


@pytest.fixture(scope="module")
def found(make_model, tmp_path_factory):
    """The alignment of a run with a small world and a model of one layer, without a template."""
    run = tmp_path_factory.mktemp("run")
    sizes = {f"{part}_documents": 40 for part in PARTS}
    make_world(
        MakeWorldConfig(
            output=run / "world", people=20, cloze_items=20, pairs_per_phenomenon=4, **sizes
        )
    )
    train_tokenizer(
        TokenizerConfig(
            inputs=[run / "world" / "train.jsonl"], output=run / "tokenizer", vocab_size=400
        )
    )
    model = run / "models" / "distilled-seed1"
    shutil.copytree(make_model(vocab_size=400, max_position_embeddings=256), model)
    copy_tokenizer(run / "tokenizer", model)
    (model / "chat_template.jinja").unlink()
    return Alignment(AlignDemoConfig(run=run, output=run / "align"))


def test_data_and_tokens_are_those_of_the_runs_world(found, capsys):
    make_data(found)
    assert ChatTokenizer.open(found.tokenizer)  # a template came to it
    lines = found.lines("instructions").read_text(encoding="utf-8").splitlines()
    documents, _ = token_stats(found.run.tokens("instructions"))
    assert documents == len(lines)
    answers, _ = token_stats(found.run.tokens("held_out_preferences"))
    asked = found.lines("held_out_preferences").read_text(encoding="utf-8").splitlines()
    assert answers == 2 * len(asked)


def test_every_stage_starts_from_the_one_before(found):
    assert found.sft().model == found.start
    assert found.dpo().model == found.sft().output
    assert found.grpo().model == found.dpo().output
    assert [found.run.model(name) for name in (FINE_TUNED, ALIGNED, REWARDED)] == [
        found.sft().output,
        found.dpo().output,
        found.grpo().output,
    ]
    learned = json.loads(found.lines("tasks").read_text(encoding="utf-8").splitlines()[0])
    assert found.rewards(FINE_TUNED).tasks == [found.lines("held_out_tasks")]
    assert learned["prompt"] not in found.lines("held_out_tasks").read_text(encoding="utf-8")


def test_every_stage_is_measured_on_all_that_was_held_out(found):
    """The rows that the engine reads in a validation hold every example at least once."""
    for settings, name in (
        (found.sft(), "held_out_instructions"),
        (found.dpo(), "held_out_preferences"),
    ):
        tokens = found.run.tokens(name)
        assert settings.validation_data == tokens
        rows = settings.eval_iters * settings.global_batch_size
        dataset = whole_documents(
            tokens, rows, settings.sequence_length, settings.seed, found.run.root / "index"
        )
        (first, *_) = dataset.ends
        assert rows - settings.global_batch_size < first <= rows
    rewards = found.rewards(found.config.model)
    assert (rewards.model, rewards.tokenizer) == (found.start, found.tokenizer)


def test_the_table_has_a_row_a_stage():
    empty = dict.fromkeys(("reward", "answer_loss", "preference_accuracy", "wall_seconds"))
    judged = {"minimal_pairs_accuracy": 0.95, "fact_accuracy": 0.9, "perplexity": 3.25}
    rows = [
        {"stage": "distilled", **empty, **judged, "answer_loss": 2.5},
        {"stage": FINE_TUNED, **empty, **judged, "reward": 0.4567, "wall_seconds": 90.0},
    ]
    first, second = table(rows).splitlines()[1:]
    assert first.split() == ["distilled", "-", "2.500", "-", "0.950", "0.900", "3.25", "-"]
    assert second.split() == [FINE_TUNED, "0.457", "-", "-", "0.950", "0.900", "3.25", "1.5"]


def test_without_a_demo_there_is_nothing_to_align(tmp_path, capsys):
    words = ["align", f"--run={tmp_path}", f"--output={tmp_path / 'align'}", "--dry-run"]
    assert main(words) == 2
    assert "holds no distilled-seed1 on the built-in world; run `bielik demo`" in (
        capsys.readouterr().err
    )
