"""Where data may lie, what is said of data that are missing or damaged, and no network."""

import json
import shutil
import socket
import subprocess
import sys

import pytest

from nemo_bielik.data.chat_template import CHAT_TEMPLATE_NAME
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.evaluate.stage import evaluate
from nemo_bielik.evaluate.suites.catalog import find_suites
from nemo_bielik.evaluate.suites.data import data_fingerprint, dataset_settings, no_downloads

PAIR = {"phenomenon": "zgoda", "good": "Mały dom.", "bad": "Mała dom."}
CARD = """---
configs:
- config_name: pol_Latn
  data_files:
  - split: test
    path: data/pol_Latn.jsonl
---
"""


def run(model, tmp_path, **settings):
    evaluate(
        EvaluateConfig(model=model, output=tmp_path / "out", data_dir=tmp_path / "data", **settings)
    )


def some_text(tmp_path):
    """Return a text to evaluate too, so that something is measured whatever suites lack."""
    path = tmp_path / "text.txt"
    path.write_text("Ala ma kota.", encoding="utf-8")
    return [path]


def test_a_repository_with_a_card_is_read_by_its_card(
    suite_model, results_of, tmp_path, monkeypatch
):
    row = {f"mc_answer{n}": str(n) for n in range(1, 5)} | {
        "flores_passage": "Kot śpi.",
        "question": "Kto?",
        "correct_answer_num": "1",
    }
    folder = tmp_path / "data" / "facebook" / "belebele"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    rows = [json.dumps({**row, "question_number": number}) + "\n" for number in range(6)]
    (folder / "data" / "pol_Latn.jsonl").write_text("".join(rows), encoding="utf-8")

    def no_network(*args, **kwargs):
        raise AssertionError(f"a connection was tried: {args}")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    run(suite_model, tmp_path, suites=["belebele"])
    suite = results_of(tmp_path / "out")[0]["belebele"]
    assert suite["tasks"]["belebele_pol_Latn"]["items"] == 6
    assert "BuilderConfig 'ces_Latn' not found" in suite["not_run"]["belebele_ces_Latn"]


def test_missing_and_damaged_data_are_not_run_and_never_left_out(
    suite_model, put_data, results_of, tmp_path, capsys
):
    put_data(tmp_path / "data", "nemo-bielik/minimal-pairs", test=[{"good": "a"}, PAIR])
    put_data(tmp_path / "data", "amu-cai/PES-2018-2022", test=[{"question": "?", "label": "A"}])
    names = ["minimal-pairs", "medical", "eq-bench-pl", "cptub", "bfcl", "euroeval"]
    run(suite_model, tmp_path, suites=names, texts=some_text(tmp_path))
    suites, items = results_of(tmp_path / "out")
    assert list(suites) == names and {item["suite"] for item in items} == {"perplexity"}
    assert {suite["status"] for suite in suites.values()} == {"not run"}
    reasons = {name: suite["reason"] for name, suite in suites.items()}
    assert "nemo-bielik/minimal-pairs cannot be read" in reasons["minimal-pairs"]
    assert "need more rows than the 1 there are" in reasons["medical"]
    assert "needs speakleash/EQ-Bench-PL in" in reasons["eq-bench-pl"]
    assert all("\n" not in reason for reason in reasons.values())
    printed = capsys.readouterr()
    assert printed.err == "" and len(printed.out.splitlines()) == len(names)


def test_a_run_in_which_no_suite_could_be_run_fails_and_writes_nothing(
    suite_model, tmp_path, capsys
):
    with pytest.raises(DataError, match="because no suite could be run"):
        run(suite_model, tmp_path, suites=["minimal-pairs", "belebele"])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["minimal-pairs", "belebele"]
    assert all(" not run: " in line for line in printed)
    assert list(tmp_path.iterdir()) == []


DAMAGE = {
    "no parquet": ("test.parquet", b"nonsense"),
    "half a line": ("test.jsonl", b"{"),
    "no rows": ("test.jsonl", b""),
    "no archive": ("test.zip", b"PK\x03\x04nonsense"),
    "no gzip": ("test.jsonl.gz", b"\x1f\x8bnonsense"),
    "a card out of format": ("README.md", b"---\nconfigs: [\n---\n"),
    "a script": ("minimal-pairs.py", b""),
    "another split": ("train.jsonl", json.dumps(PAIR).encode()),
}


@pytest.mark.parametrize(("name", "content"), DAMAGE.values(), ids=DAMAGE)
def test_damage_of_any_kind_is_said_of_the_data(tmp_path, name, content):
    """The readers' errors have no type in common; none of them may end the other tasks' run."""
    from nemo_bielik.evaluate.suites.run import Runner

    (suite,) = find_suites(["minimal-pairs"])
    (task,) = suite.tasks
    folder = tmp_path / task.dataset
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    runner = Runner(lm=None, suites=[suite], data_dir=tmp_path, limit=None, work=tmp_path)
    with no_downloads(), pytest.raises(DataError, match="minimal-pairs cannot be read: "):
        runner._load(task, dataset_settings(task, folder, tmp_path / "cache"))


def test_a_row_that_does_not_fit_costs_its_task_only(suite_model, put_data, results_of, tmp_path):
    shots = [{"sentence": "Hej", "target": "0"}] * 6
    rows = [{"sentence": "Cześć", "target": "0"}, {"sentence": "Hej", "target": "7"}]
    put_data(tmp_path / "data", "allegro/klej-cbd", train=shots, test=rows)
    run(suite_model, tmp_path, suites=["open-pl"], texts=some_text(tmp_path))
    suites, items = results_of(tmp_path / "out")
    assert {item["suite"] for item in items} == {"perplexity"}
    assert "allegro/klej-cbd: a row does not fit" in suites["open-pl"]["not_run"]["cbd"]


def test_prompts_that_were_cut_are_marked(make_model, suite_model, put_data, results_of, tmp_path):
    from nemo_bielik.checkpoint import copy_tokenizer

    small = make_model(vocab_size=320, max_position_embeddings=48)
    copy_tokenizer(suite_model, small)
    put_data(tmp_path / "data", "nemo-bielik/minimal-pairs", test=[PAIR])
    shots = [{"sentence": "Hej", "target": "0"}] * 6
    put_data(tmp_path / "data", "allegro/klej-cbd", train=shots, test=shots[:1])
    run(small, tmp_path, suites=["minimal-pairs", "open-pl"], sequence_length=16)
    suites, _ = results_of(tmp_path / "out")
    assert not suites["minimal-pairs"]["tasks"]["minimal_pairs"]["prompts_cut"]
    assert suites["open-pl"]["tasks"]["cbd"]["prompts_cut"]


DEFINITIONS = """
import sys
from pathlib import Path
from nemo_bielik.evaluate.suites.catalog import find_suites
from nemo_bielik.evaluate.suites.data import dataset_settings
from nemo_bielik.evaluate.suites.run import Runner, _definition
(suite,) = find_suites(["include-base-44"])
(task,) = [task for task in suite.tasks if task.name == "include_pl"]
data = Path(sys.argv[1])
runner = Runner(lm=None, suites=[suite], data_dir=data, limit=None, work=data)
parts, _ = runner._load(task, dataset_settings(task, data / task.dataset, data / "cache"))
print(sorted(map(_definition, parts.values())))
"""


def test_versions_are_the_same_in_another_process(put_data, tmp_path, monkeypatch, capsys):
    row = {f"option_{letter}": letter for letter in "abcd"} | {"question": "?", "answer": 1}
    rows = [{**row, "domain": "STEM", "n": number} for number in range(6)]
    put_data(tmp_path, "CohereForAI/include-base-44", "Polish", test=rows)
    command = [sys.executable, "-c", DEFINITIONS, str(tmp_path)]
    there = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path)])
    exec(DEFINITIONS, {})
    assert there == capsys.readouterr().out and "STEM" in there


def test_a_limit_is_seen_everywhere(suite_model, put_data, results_of, tmp_path, capsys):
    put_data(tmp_path / "data", "nemo-bielik/minimal-pairs", test=[PAIR] * 3)
    run(suite_model, tmp_path, suites=["minimal-pairs"], limit=2)
    suites, items = results_of(tmp_path / "out")
    assert suites["minimal-pairs"]["limit"] == 2 and len(items) == 2
    assert "LIMIT: 2 items a task or part" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "out" / "bielik_manifest.json").read_text(encoding="utf-8"))
    assert (
        manifest["config"]["limit"] == manifest["results"]["suites"]["minimal-pairs"]["limit"] == 2
    )


def test_answers_that_take_more_than_the_model_knows_are_not_run(
    make_model, suite_model, put_data, results_of, tmp_path
):
    from nemo_bielik.checkpoint import copy_tokenizer

    small = make_model(vocab_size=320, max_position_embeddings=32)
    copy_tokenizer(suite_model, small)
    rows = [{"prompt": "?", "reference_answer": "{}"}]
    put_data(tmp_path / "data", "speakleash/EQ-Bench-PL", validation=rows)
    run(small, tmp_path, suites=["eq-bench-pl"], sequence_length=16, texts=some_text(tmp_path))
    suites, _ = results_of(tmp_path / "out")
    assert suites["eq-bench-pl"]["reason"] == "answers take 80 tokens, the model knows 32 positions"


def test_chat_needs_a_template(suite_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(suite_model, model)
    (model / CHAT_TEMPLATE_NAME).unlink()
    with pytest.raises(ConfigError, match="has no chat template"):
        run(model, tmp_path, suites=["minimal-pairs"], chat=True)


def test_versions_follow_the_data_and_not_its_card(put_data, tmp_path):
    put_data(tmp_path, "a/b", test=[PAIR])
    before = data_fingerprint(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "README.md").write_text("new", encoding="utf-8")
    assert data_fingerprint(tmp_path / "a" / "b") == before
    put_data(tmp_path, "a/b", test=[PAIR, PAIR])
    assert data_fingerprint(tmp_path / "a" / "b") != before


def test_downloads_are_forbidden_only_inside(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with no_downloads():
        assert datasets.config.HF_DATASETS_OFFLINE
        with pytest.raises(Exception, match="Couldn't reach"):
            datasets.load_dataset("facebook/belebele", "pol_Latn")
    assert not datasets.config.HF_DATASETS_OFFLINE
