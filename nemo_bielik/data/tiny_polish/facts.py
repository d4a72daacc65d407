"""The closed world: people, one value for each of five relations, and its many wordings.

Every (fact, wording) pair belongs to one split. One wording of each fact that ends in the value
is held out: no training text tells that fact in those words, though it tells others in them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from nemo_bielik.data.tiny_polish import fact_tables as tables
from nemo_bielik.data.tiny_polish.splits import TRAINING_SPLITS, stable_fraction, training_split

RELATIONS = tuple(tables.WORDINGS)
CANDIDATES = 10
SURNAMES = len(tables.SURNAME_STEMS.split()) * len(tables.SURNAME_ENDINGS)
MOST_PEOPLE = 4 * SURNAMES

Value = Mapping[str, str]  # from the name of a form, e.g. "loc", to the form
Telling = tuple[int, str, int]  # person, relation, wording


@dataclass(frozen=True)
class Person:
    """A person with a full name in the nominative and an index into each relation's values."""

    name: str
    is_woman: bool
    values: Mapping[str, int]


@dataclass(frozen=True)
class ClozeItem:
    """A sentence without its value: ``prompt + candidate + suffix`` is the whole sentence."""

    relation: str
    prompt: str
    answer: str
    candidates: tuple[str, ...]
    suffix: str


@cache
def wordings(relation: str) -> tuple[str, ...]:
    """List the wordings of the relation, as templates."""
    return tuple(line.strip() for line in tables.WORDINGS[relation].strip().splitlines())


@cache
def values(relation: str) -> tuple[Value, ...]:
    """List the values of the relation, each with its forms."""
    table, columns = tables.COLUMNS[relation]
    rows = table.strip().replace("\n", "|").split("|")
    return tuple(dict(zip(columns, row.split(), strict=True)) for row in rows)


@cache
def cloze_wordings(relation: str) -> tuple[int, ...]:
    """Number the wordings that end in the value."""
    return tuple(
        i
        for i, text in enumerate(wordings(relation))
        if text.endswith("}.") and not text.endswith("{name}.")
    )


def form_of(relation: str, wording: int, value: int, is_woman: bool) -> str:
    """Inflect the value as the wording governs it."""
    case = next(c for c in re.findall(r"\{(\w+)\}", wordings(relation)[wording]) if c != "name")
    forms = values(relation)[value]
    return forms[case] if case in forms else forms[f"{case}.{'f' if is_woman else 'm'}"]


def people(count: int, seed: int) -> tuple[Person, ...]:
    """Make the people, values spread evenly and independently; surnames recur past `SURNAMES`."""
    surnames = sorted(
        (stable_fraction(seed, "surname", stem, number), stem, number)
        for stem in tables.SURNAME_STEMS.split()
        for number in range(len(tables.SURNAME_ENDINGS))
    )
    chosen = {relation: _spread(count, relation, seed) for relation in RELATIONS}
    return tuple(
        _person(
            index,
            *surnames[index % SURNAMES][1:],
            {relation: chosen[relation][index] for relation in RELATIONS},
        )
        for index in range(count)
    )


def _person(index: int, stem: str, ending: int, chosen: Mapping[str, int]) -> Person:
    is_woman = index % 2 == 1
    first_names = (tables.WOMEN if is_woman else tables.MEN).split()
    # The step of 23 gives those who share a surname different first names.
    first_name = first_names[(index // 2 + index // SURNAMES * 23) % len(first_names)]
    surname = stem + tables.SURNAME_ENDINGS[ending][is_woman]
    return Person(f"{first_name} {surname}", is_woman, chosen)


def _spread(count: int, relation: str, seed: int) -> list[int]:
    """Give every person a value, each value to as many people as any other (or one more)."""
    order = sorted(range(count), key=lambda index: stable_fraction(seed, relation, index))
    chosen = [0] * count
    for rank, index in enumerate(order):
        chosen[index] = rank % len(values(relation))
    return chosen


class FactWorld:
    """The people and what is told of them in each split."""

    def __init__(self, count: int, seed: int) -> None:
        self.seed = seed
        self.people = people(count, seed)

    def render(self, person: int, relation: str, wording: int) -> str:
        """Tell a fact in the given wording."""
        prompt, suffix = self._around(person, relation, wording)
        value = self._form(person, relation, wording)
        if not prompt:
            value = value[0].upper() + value[1:]
        return prompt + value + suffix

    def held_out_wording(self, person: int, relation: str) -> int:
        """Number the wording in which this fact is asked for and never taught."""
        options = cloze_wordings(relation)
        chosen = stable_fraction(self.seed, "held out", self.people[person].name, relation)
        return options[int(chosen * len(options))]

    @cached_property
    def tellings(self) -> Mapping[str, tuple[Telling, ...]]:
        """Every (person, relation, wording), by split; the held-out ones are under ``test``."""
        found: dict[str, list[Telling]] = {split: [] for split in (*TRAINING_SPLITS, "test")}
        for person, relation, wording in self._all_tellings():
            held_out = wording == self.held_out_wording(person, relation)
            name = self.people[person].name
            split = "test" if held_out else training_split("fact", name, relation, wording)
            found[split].append((person, relation, wording))
        return {split: tuple(tellings) for split, tellings in found.items()}

    def cloze_items(self, count: int) -> list[ClozeItem]:
        """Make cloze items, as many of each relation, each value as often the answer."""
        items = []
        for number, relation in enumerate(RELATIONS):
            share = count // len(RELATIONS) + (number < count % len(RELATIONS))
            order = sorted(
                range(len(self.people)), key=lambda i: stable_fraction(self.seed, relation, i)
            )
            items += [self._cloze(i, relation, place) for place, i in enumerate(order[:share])]
        return items

    def _cloze(self, person: int, relation: str, place: int) -> ClozeItem:
        wording = self.held_out_wording(person, relation)
        prompt, suffix = self._around(person, relation, wording)
        who = self.people[person]
        answer = who.values[relation]
        others = [value for value in range(len(values(relation))) if value != answer]
        others.sort(key=lambda value: stable_fraction(self.seed, who.name, relation, value))
        chosen = others[: CANDIDATES - 1]
        chosen.insert(place % CANDIDATES, answer)
        forms = tuple(form_of(relation, wording, value, who.is_woman) for value in chosen)
        return ClozeItem(relation, prompt, forms[place % CANDIDATES], forms, suffix)

    def _all_tellings(self) -> Iterator[Telling]:
        for person in range(len(self.people)):
            for relation in RELATIONS:
                for wording in range(len(wordings(relation))):
                    yield person, relation, wording

    def _form(self, person: int, relation: str, wording: int) -> str:
        who = self.people[person]
        return form_of(relation, wording, who.values[relation], who.is_woman)

    def _around(self, person: int, relation: str, wording: int) -> Sequence[str]:
        """Give what stands before and after the value."""
        who = self.people[person]
        text = wordings(relation)[wording].replace("{name}", who.name)
        text = re.sub(r"\[(.*?)\|(.*?)\]", lambda match: match[2 if who.is_woman else 1], text)
        return re.split(r"\{\w+\}", text)
