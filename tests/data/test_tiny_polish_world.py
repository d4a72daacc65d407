"""The written corpus: the same everywhere, its splits apart, its held-out parts unseen."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.data.tiny_polish import World, WorldConfig, narration, write_world
from nemo_bielik.data.tiny_polish.grammar import Composer
from nemo_bielik.data.tiny_polish.lexicon import load_lexicon
from nemo_bielik.data.tiny_polish.splits import SPLITS, TRAINING_SPLITS
from nemo_bielik.errors import ConfigError, StorageError

SETTINGS = {
    "people": 60,
    "train_documents": 3_000,
    "recovery_documents": 600,
    "calibration_documents": 100,
    "validation_documents": 100,
    "test_documents": 200,
    "pairs_per_phenomenon": 20,
    "cloze_items": 150,
}
FILES = sorted(f"{name}.jsonl" for name in (*SPLITS, "facts", "minimal_pairs")) + ["world.json"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world")
    write_world(path, config())
    return path


def config(**changes: Any) -> WorldConfig:
    return WorldConfig(**{**SETTINGS, **changes})


def rows(directory: Path, name: str) -> list[dict[str, Any]]:
    lines = (directory / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?]) ", text)


def test_counts_and_fields(directory: Path) -> None:
    summary = json.loads((directory / "world.json").read_text(encoding="utf-8"))
    assert summary["config"]["people"] == 60
    for split in SPLITS:
        found = rows(directory, split)
        assert len(found) == summary["counts"][split] == SETTINGS[f"{split}_documents"]
        domains = Counter(row["domain"] for row in found)
        assert set(domains) == {"narration", "dialogue", "official", "facts"}
        assert domains["facts"] == round(0.4 * len(found))
        assert all(1 <= len(sentences(row["text"])) <= 6 for row in found)
    assert summary["counts"]["minimal_pairs"] == 8 * 20
    assert summary["counts"]["facts"] == len(rows(directory, "facts")) == 150
    assert sorted(path.name for path in directory.iterdir()) == FILES


def test_same_bytes_whatever_the_hash_seed(directory: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from nemo_bielik.data.tiny_polish import *;"
        f"write_world(Path(sys.argv[1]), WorldConfig(**{SETTINGS!r}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env=environment)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes(), name


def test_the_seed_changes_the_text(directory: Path) -> None:
    other = World(config(seed=1)).splits["train"]
    assert [row["text"] for row in rows(directory, "train")] != [row.text for row in other]


def test_no_sentence_is_in_two_splits(directory: Path) -> None:
    home: dict[str, str] = {}
    for split in SPLITS:
        for row in rows(directory, split):
            for sentence in sentences(row["text"]):
                assert home.setdefault(sentence, split) == split, sentence


def lemmas_of_forms() -> tuple[dict[str, str], dict[str, str]]:
    """Map the forms of nouns, and those of adjectives and verbs, to their lemmas."""
    lexicon = load_lexicon()
    nouns = {form: noun.lemma for noun in lexicon.nouns for form in noun.forms.values()}
    partners = {form: a.lemma for a in lexicon.adjectives for form in a.forms.values()}
    for verb in lexicon.all_verbs:
        for form in (verb.lemma, *verb.present.values(), *verb.past.values()):
            partners[form] = verb.lemma
    return nouns, partners


def held_out_pairs_in(sentence: str, world: World) -> set[tuple[str, str]]:
    nouns, partners = lemmas_of_forms()
    words = re.findall(r"\w+", sentence.lower())
    return {
        (nouns[noun], partners[partner])
        for noun in words
        for partner in words
        if noun in nouns
        and partner in partners
        and partners[partner] in world.held_out.partners_of[nouns[noun]]
    }


def test_held_out_pairs_are_in_test_and_minimal_pairs_only(directory: Path) -> None:
    world = World(config())
    forms = lemmas_of_forms()
    held_out = world.held_out.partners_of
    for split in TRAINING_SPLITS:
        for row in rows(directory, split):
            for sentence in sentences(row["text"]):
                words = re.findall(r"\w+", sentence.lower())
                partners = {forms[1][word] for word in words if word in forms[1]}
                nouns = {forms[0][word] for word in words if word in forms[0]}
                assert all(partners.isdisjoint(held_out[noun]) for noun in nouns), sentence
    for row in rows(directory, "test")[:50]:
        for sentence in sentences(row["text"]):
            assert row["domain"] == "facts" or held_out_pairs_in(sentence, world), sentence
    for pair in rows(directory, "minimal_pairs")[::7]:
        assert held_out_pairs_in(pair["good"], world), pair


def test_pairs_are_held_out_in_about_the_share_asked_for() -> None:
    lexicon = load_lexicon()
    possible = len(lexicon.nouns) * (len(lexicon.adjectives) + len(lexicon.all_verbs))
    assert 0.05 < len(World(config()).held_out) / possible < 0.07


def test_documents_hardly_repeat(directory: Path) -> None:
    told = [row["text"] for row in rows(directory, "train") if row["domain"] != "facts"]
    assert len(set(told)) > 0.98 * len(told)


def test_the_grammar_has_millions_of_sentences() -> None:
    composer = Composer(load_lexicon(), "")
    assert narration.count_simple_sentences(composer) > 100_000_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("people", 5),
        ("people", 10**6),
        ("people", 60.5),
        ("seed", -1),
        ("train_documents", 0),
        ("test_documents", True),
        ("fact_share", 1.2),
        ("held_out_share", 0.0),
        ("pairs_per_phenomenon", 3),
        ("cloze_items", 60 * 5 + 1),
    ],
)
def test_bad_settings_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name}={value!r}: allowed are .*; "):
        config(**{name: value})


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    with pytest.raises(StorageError, match="taken"):
        write_world(taken, config(train_documents=10))
