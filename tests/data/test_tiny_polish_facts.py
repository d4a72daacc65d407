"""The closed world: distinct people, balanced values, and cloze that no training text answers."""

import re
from collections import Counter

import pytest

from nemo_bielik.data.tiny_polish import World, WorldConfig
from nemo_bielik.data.tiny_polish.facts import (
    CANDIDATES,
    MOST_PEOPLE,
    RELATIONS,
    SURNAMES,
    ClozeItem,
    FactWorld,
    cloze_wordings,
    people,
    values,
    wordings,
)
from nemo_bielik.data.tiny_polish.grammar import before
from nemo_bielik.data.tiny_polish.splits import TRAINING_SPLITS

PEOPLE = 120


@pytest.fixture(scope="module")
def world() -> World:
    config = WorldConfig(
        people=PEOPLE,
        train_documents=6_000,
        recovery_documents=800,
        calibration_documents=200,
        validation_documents=200,
        test_documents=100,
        fact_share=0.9,
        cloze_items=300,
    )
    return World(config)


@pytest.fixture(scope="module")
def told(world: World) -> dict[str, Counter[str]]:
    """Count the fact sentences of each split."""
    return {
        split: Counter(
            sentence
            for document in documents
            if document.domain == "facts"
            for sentence in re.split(r"(?<=\.) ", document.text)
        )
        for split, documents in world.splits.items()
    }


def whole(item: ClozeItem) -> str:
    return item.prompt + item.answer + item.suffix


@pytest.mark.parametrize("count", [20, SURNAMES, SURNAMES + 1, MOST_PEOPLE])
def test_names_are_distinct(count: int) -> None:
    assert len({person.name for person in people(count, seed=7)}) == count


def test_surnames_are_distinct_while_they_last() -> None:
    surnames = [person.name.split()[1] for person in people(600, seed=0)]
    assert len(set(surnames)) == 600


@pytest.mark.parametrize("relation", RELATIONS)
def test_values_and_wordings(relation: str) -> None:
    assert 20 <= len(values(relation)) <= 60
    assert len(wordings(relation)) >= 8
    assert len(cloze_wordings(relation)) >= 6
    counts = Counter(person.values[relation] for person in people(600, seed=0))
    assert set(counts) == set(range(len(values(relation))))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_values_need_no_vowel_after_w_and_z() -> None:
    for relation in RELATIONS:
        for preposition, case in re.findall(r"\b([wWzZ]) \{(\w+)\}", " ".join(wordings(relation))):
            for value in values(relation):
                joined = before(preposition.lower(), value[case].lower())
                assert joined == f"{preposition.lower()} {value[case].lower()}"


def test_every_telling_has_one_split() -> None:
    facts = FactWorld(PEOPLE, seed=0)
    tellings = [telling for found in facts.tellings.values() for telling in found]
    assert len(tellings) == len(set(tellings)) == PEOPLE * sum(len(wordings(r)) for r in RELATIONS)
    assert len(facts.tellings["test"]) == PEOPLE * len(RELATIONS)


def test_each_split_tells_its_own_tellings(world: World, told: dict[str, Counter[str]]) -> None:
    for split, counts in told.items():
        own = {world.facts.render(*telling) for telling in world.facts.tellings[split]}
        assert set(counts) <= own


def test_train_tells_each_fact_in_its_wordings_many_times(
    world: World, told: dict[str, Counter[str]]
) -> None:
    own = [world.facts.render(*telling) for telling in world.facts.tellings["train"]]
    seen = [told["train"][sentence] for sentence in own]
    assert sum(count > 0 for count in seen) > 0.99 * len(own)
    assert sum(seen) / (PEOPLE * len(RELATIONS)) > 20


def test_cloze_is_never_told_in_training(world: World, told: dict[str, Counter[str]]) -> None:
    items = world.cloze_items()
    for item in items:
        assert all(whole(item) not in told[split] for split in TRAINING_SPLITS), item
    # the same words do tell other facts
    last_words = Counter(item.prompt.split()[-1] for item in items)
    trained = Counter(sentence.split()[-2] for sentence in told["train"])
    assert all(word in trained for word in last_words if word[0].islower())


def test_cloze_is_balanced(world: World) -> None:
    items = world.cloze_items()
    assert Counter(item.relation for item in items) == dict.fromkeys(RELATIONS, 60)
    for relation in RELATIONS:
        places = Counter(
            item.candidates.index(item.answer) for item in items if item.relation == relation
        )
        assert places == dict.fromkeys(range(CANDIDATES), 6)
    for item in items:
        assert len(set(item.candidates)) == CANDIDATES
        assert item.suffix == "." and item.prompt


def test_men_and_women_are_told_of_in_their_own_forms() -> None:
    facts = FactWorld(40, seed=0)
    man = next(i for i, person in enumerate(facts.people) if not person.is_woman)
    woman = next(i for i, person in enumerate(facts.people) if person.is_woman)
    born = wordings("born_in").index("{name} urodził[|a] się w {loc}.")
    assert " urodził się w " in facts.render(man, "born_in", born)
    assert " urodziła się w " in facts.render(woman, "born_in", born)
