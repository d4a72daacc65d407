"""The built-in instructions, preferences and tasks: right, apart, and the same everywhere."""

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.align.rewards.catalog import REWARDS
from nemo_bielik.cli import main
from nemo_bielik.data.chat import read_conversation
from nemo_bielik.data.tiny_polish.assistant import AssistantData, AssistantDataConfig
from nemo_bielik.data.tiny_polish.facts import FactWorld
from nemo_bielik.data.tiny_polish.inflection import Case, Number
from nemo_bielik.data.tiny_polish.lexicon import load_lexicon
from nemo_bielik.data.tiny_polish.world import World, WorldConfig
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.manifest import Manifest

SMALL = {"corrections": 400, "riddles": 300}
WORLD = WorldConfig(people=60, cloze_items=1)
NAMES = ("instructions", "preferences", "tasks")
ALL = [*NAMES, *(f"held_out_{name}" for name in NAMES)]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes."""
    place = tmp_path_factory.mktemp("assistant")
    assert main(["world", "--assistant", f"--output={place / 'data'}", *words(place)]) == 0
    return place / "data"


def words(place: Path, world: WorldConfig = WORLD) -> list[str]:
    """Options that make less of it, of a world that tells of itself in `place`."""
    (place / "world.json").write_text(json.dumps({"config": asdict(world), "counts": {}}))
    return [f"--world={place}", *(f"--{name}={value}" for name, value in SMALL.items())]


@pytest.fixture(scope="module")
def rows(directory: Path) -> dict[str, Rows]:
    """The rows of each file by its name."""
    return {
        name: [json.loads(line) for line in (directory / f"{name}.jsonl").open(encoding="utf-8")]
        for name in ALL
    }


def prompt(row: dict[str, Any]) -> str:
    return str(row["messages"][0]["content"] if "messages" in row else row["prompt"])


def prompts(rows: dict[str, Rows], *names: str) -> set[str]:
    return {prompt(row) for name in names for row in rows[name]}


def test_files_and_their_fields(directory: Path, rows: dict[str, Rows]) -> None:
    assert Manifest.load(directory).results == {name: len(rows[name]) for name in ALL}
    for name in ("instructions", "held_out_instructions"):
        for row in rows[name]:
            found = read_conversation(json.dumps(row))
            assert [message["role"] for message in found.messages] == ["user", "assistant"]
            assert found.tools is None
        kinds = {row["kind"] for row in rows[name]}
        assert kinds == {"fact", "correction", "inflection", "arithmetic", "logic"}
    for name in ("preferences", "held_out_preferences"):
        assert {row["kind"] for row in rows[name]} == {"fact", "correction", "inflection"}
        assert all(row["chosen"] != row["rejected"] for row in rows[name])
    for name in ("tasks", "held_out_tasks"):
        assert {row["kind"] for row in rows[name]} == {"inflection", "arithmetic", "logic"}
    for name in ALL:
        assert len(prompts(rows, name)) == len(rows[name])  # no question twice


def test_same_bytes_whatever_the_hash_seed(directory: Path, tmp_path: Path) -> None:
    output = tmp_path / "again"
    options = [f"--output={output}", *words(tmp_path)]
    subprocess.run(
        [sys.executable, "-m", "nemo_bielik", "world", "--assistant", *options],
        check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    for name in ALL:
        assert (output / f"{name}.jsonl").read_bytes() == (directory / f"{name}.jsonl").read_bytes()


def test_every_task_is_right_and_its_wrong_answer_wrong(rows: dict[str, Rows]) -> None:
    """Each part against an independent reading of the question."""
    compared = re.compile(r"(\S+) jest (starsz|młodsz|wyższ|niższ)[ya] od (\S+)\.", re.IGNORECASE)
    genitive = {
        noun.forms[Case.GEN, Number.SG]: noun.lemma
        for noun in load_lexicon().nouns
        if noun.kind == "person"
    }
    for row in [*rows["tasks"], *rows["held_out_tasks"]]:
        reward = REWARDS[row["reward"]]
        reward.check(row)
        if row["kind"] == "arithmetic":
            a, sign, b = re.findall(r"\d+|[-+·]", row["prompt"])
            wanted = {"+": int(a) + int(b), "-": int(a) - int(b), "·": int(a) * int(b)}[sign]
            assert row["answer"] == str(wanted)
            continue
        assert reward.function(row["answer"], row) == 1
        if row["kind"] != "logic":
            continue
        found = compared.findall(row["prompt"])
        assert len(found) == 2, row
        above = {more.lower(): genitive[less] for more, _, less in found}
        top = next(name for name in above if name not in above.values())
        bottom = next(name for name in above.values() if name not in above)
        asked = re.search(r"naj(\S+?)[ya]?\?", row["prompt"])
        assert asked
        is_top = asked[1].startswith(found[0][1])
        assert row["choices"]["ABC".index(row["answer"])] == (top if is_top else bottom)


def test_answers_of_facts_are_the_worlds(rows: dict[str, Rows]) -> None:
    facts = FactWorld(WORLD.people, WORLD.seed)
    told = {
        facts.render(person, relation, wording): (person, relation, wording)
        for tellings in facts.tellings.values()
        for person, relation, wording in tellings
    }
    for row in [*rows["preferences"], *rows["held_out_preferences"]]:
        if row["kind"] == "fact":
            person, relation, wording = told[row["chosen"]]
            assert facts.people[person].name in row["prompt"]
            assert wording != facts.held_out_wording(person, relation)
            assert row["rejected"] not in told  # of nobody with that name
            start = row["chosen"].rpartition(" ")[0]
            assert row["rejected"].startswith(start)


def test_no_key_is_both_learned_and_measured(rows: dict[str, Rows]) -> None:
    learned = [row for name in NAMES for row in rows[name]]
    measured = [row for name in NAMES for row in rows[f"held_out_{name}"]]
    for kind in ("fact", "inflection", "arithmetic", "logic"):
        keys = [
            {key_of(kind, prompt(row)) for row in part if row["kind"] == kind}
            for part in (learned, measured)
        ]
        assert all(keys), kind
        assert keys[0].isdisjoint(keys[1]), kind
    practised = prompts(rows, "preferences", "tasks")
    assert prompts(rows, "instructions").isdisjoint(practised)


def key_of(kind: str, text: str) -> Any:
    if kind == "fact":
        return " ".join(text.rstrip("?").split()[-2:])
    if kind == "inflection":
        return text.partition("„")[2].partition("”")[0]
    if kind == "arithmetic":
        a, sign, b = re.findall(r"\d+|[-+·]", text)
        return (sign, a, b) if sign == "-" else (sign, frozenset((a, b)))
    return frozenset(re.findall(r"[ABC]\) (\w+)", text))


def test_training_sentences_hold_none_of_the_worlds_held_out_pairs(rows: dict[str, Rows]) -> None:
    world = World(WORLD)
    nouns: dict[str, set[str]] = {}
    partners: dict[str, set[str]] = {}
    for noun in world.lexicon.nouns:
        for form in noun.forms.values():
            nouns.setdefault(form, set()).add(noun.lemma)
    for adjective in world.lexicon.adjectives:
        for form in adjective.forms.values():
            partners.setdefault(form, set()).add(adjective.lemma)
    for verb in world.lexicon.all_verbs:
        for form in (*verb.present.values(), *verb.past.values(), verb.lemma):
            partners.setdefault(form, set()).add(verb.lemma)

    def holds_pair(text: str) -> bool:
        words = re.findall(r"\w+", text.lower())
        lemmas = {lemma for word in words for lemma in partners.get(word, ())}
        return any(
            lemma in world.held_out.partners_of[noun]
            for word in words
            for noun in nouns.get(word, ())
            for lemma in lemmas
        )

    for name in NAMES:
        for row in rows[name]:
            assert not holds_pair(json.dumps(row, ensure_ascii=False)), row
    measured = [row for row in rows["held_out_preferences"] if row["kind"] == "correction"]
    assert measured
    assert all(holds_pair(row["chosen"]) for row in measured)


def test_a_wrong_ending_is_one_word(rows: dict[str, Rows]) -> None:
    for row in [*rows["preferences"], *rows["held_out_preferences"]]:
        if row["kind"] == "correction":
            right, wrong = row["chosen"].split(), row["rejected"].split()
            assert len(right) == len(wrong)
            assert sum(a != b for a, b in zip(right, wrong, strict=True)) == 1
            assert row["prompt"].endswith(row["rejected"])


def test_the_seed_changes_what_is_held_out(rows: dict[str, Rows], tmp_path: Path) -> None:
    words(tmp_path, replace(WORLD, seed=1))
    config = AssistantDataConfig(output=tmp_path, world=tmp_path, **SMALL)
    other = AssistantData(config).rows()
    assert prompts(other, "held_out_tasks") != prompts(rows, "held_out_tasks")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("corrections", 1),
        ("riddles", 10**6),
        ("measured_share", 0.0),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}="):
        AssistantDataConfig(output=tmp_path, **{name: value})


def test_a_directory_without_a_world_is_refused(tmp_path: Path) -> None:
    for text in (None, "{", "{}", '{"config": {"peoples": 3}}'):
        if text is not None:
            (tmp_path / "world.json").write_text(text)
        with pytest.raises(DataError, match="does not tell of a world"):
            AssistantDataConfig(output=tmp_path, world=tmp_path).opened_world()
