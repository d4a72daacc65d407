"""What makes an assistant of a model of the world: instructions, preferences, verifiable tasks.

Three parts that share no key (a person, a noun, a sum, a trio, a pair of lemmas): instructions,
preferences and tasks, and what is held out of both, to measure on. Sentences to train on hold none
of the world's held-out pairs and tell no fact in its held-out wording, so the world's own
evaluations stay what they were.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from nemo_bielik.data.tiny_polish.exercises import Exercise, inflections, riddles, sums
from nemo_bielik.data.tiny_polish.facts import RELATIONS, FactWorld, form_of, values
from nemo_bielik.data.tiny_polish.grammar import Composer
from nemo_bielik.data.tiny_polish.lexicon import Adjective, Verb, load_lexicon
from nemo_bielik.data.tiny_polish.minimal_pairs import MinimalPair, make_minimal_pairs
from nemo_bielik.data.tiny_polish.phenomena import PHENOMENA
from nemo_bielik.data.tiny_polish.splits import HeldOutPairs, stable_fraction
from nemo_bielik.data.tiny_polish.taught import HeldOutWords, TaughtPairs
from nemo_bielik.data.tiny_polish.world import WORLD_NAME, WorldConfig
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.files import value_sha256
from nemo_bielik.stages import describe, is_done, stage_output

Part = Literal["instructions", "practice", "held_out"]
#: A question for each relation, in the words of the answers below.
QUESTIONS = {
    "lives_in": "Gdzie mieszka {name}?",
    "occupation": "Kim z zawodu jest {name}?",
    "born_in": "Gdzie urodził[|a] się {name}?",
    "keeps": "Jakie zwierzęta hoduje {name}?",
    "studied": "Co studiował[|a] {name}?",
}
#: Of every relation, two wordings that answer its question and end in the value.
_ANSWERS = (0, 1)
_FEWEST, _MOST = 100, 100_000


@dataclass(kw_only=True)
class AssistantDataConfig:
    """Instructions, preference pairs and verifiable tasks of the built-in world."""

    output: Path = field(metadata={"help": "directory to make"})
    assistant: bool = field(default=True, metadata={"help": "make these instead of the corpus"})
    world: Path | None = field(
        default=None,
        metadata={
            "help": "what `bielik world` made, whose people they ask about; default: as it "
            "is made without settings"
        },
    )
    corrections: int = field(default=4_000, metadata={"help": "sentences to correct"})
    riddles: int = field(default=4_000, metadata={"help": "riddles of three people"})
    measured_share: float = field(
        default=0.1, metadata={"help": "share of all keys that is held out to measure on"}
    )

    def __post_init__(self) -> None:
        for name in ("corrections", "riddles"):
            if not _FEWEST <= getattr(self, name) <= _MOST:
                raise ConfigError(
                    f"{name}={getattr(self, name)}: allowed are {_FEWEST} to {_MOST}; choose a "
                    "number in that range"
                )
        if not 0.01 <= self.measured_share <= 0.5:
            raise ConfigError(
                f"measured_share={self.measured_share}: allowed are 0.01 to 0.5; choose a number "
                "in that range"
            )

    def opened_world(self) -> WorldConfig:
        """Return the settings of the world; raise `DataError` if there is none in `world`."""
        if self.world is None:
            return WorldConfig()
        path = self.world / WORLD_NAME
        try:
            return WorldConfig(**json.loads(path.read_text(encoding="utf-8"))["config"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: does not tell of a world ({type(error).__name__}); give a directory that "
                "`bielik world` made"
            ) from None


class AssistantData:
    """All of it, a function of the config alone."""

    def __init__(self, config: AssistantDataConfig) -> None:
        self.config = config
        self.world = config.opened_world()
        self.lexicon = load_lexicon()
        self.facts = FactWorld(self.world.people, self.world.seed)

    def part_of(self, exercise: Exercise) -> Part:
        """Name the part that an exercise's key belongs to."""
        if exercise.kind == "correction":
            held_out = exercise.key == "held out"
            key = exercise.prompt  # keys are of pairs: sentences divide the rest
        else:
            key = exercise.key
            held_out = self._fraction("measured", exercise, key) < self.config.measured_share
        if held_out:
            return "held_out"
        practises = self._fraction("practice", exercise, key) < 0.5
        return "practice" if practises else "instructions"

    def exercises(self) -> Iterator[Exercise]:
        """Yield every exercise, kind after kind."""
        yield from self._questions()
        yield from self._corrections()
        yield from inflections(self.lexicon)
        yield from sums()
        yield from riddles(self._composer("riddles"), self.config.riddles)

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Return the lines of each file by its name, shuffled."""
        found: dict[str, list[dict[str, Any]]] = {}
        for exercise in sorted(self.exercises(), key=lambda e: self._fraction("order", e)):
            part = self.part_of(exercise)
            prefix = "held_out_" if part == "held_out" else ""
            if part != "practice":
                found.setdefault(f"{prefix}instructions", []).append(_instruction(exercise))
            if part != "instructions" and exercise.kind in ("fact", "correction", "inflection"):
                found.setdefault(f"{prefix}preferences", []).append(_preference(exercise))
            if part != "instructions" and exercise.reward:
                found.setdefault(f"{prefix}tasks", []).append(_task(exercise))
        return found

    def _fraction(self, purpose: str, exercise: Exercise, *key: str) -> float:
        return stable_fraction(
            self.world.seed, purpose, exercise.kind, *(key or (exercise.prompt,))
        )

    def _composer(self, purpose: str) -> Composer:
        return Composer(self.lexicon, f"{self.world.seed} assistant {purpose}")

    def _questions(self) -> Iterator[Exercise]:
        for index, person in enumerate(self.facts.people):
            for relation in RELATIONS:
                held_out = self.facts.held_out_wording(index, relation)
                wording = next(w for w in _ANSWERS if w != held_out)
                right = self.facts.render(index, relation, wording)
                forms = [
                    form_of(relation, wording, value, person.is_woman)
                    for value in (person.values[relation], self._other_value(index, relation))
                ]
                wrong = right.removesuffix(f"{forms[0]}.") + f"{forms[1]}."
                prompt = QUESTIONS[relation].replace("{name}", person.name)
                prompt = prompt.replace("[|a]", "a" if person.is_woman else "")
                yield Exercise("fact", person.name, prompt, right, wrong)

    def _other_value(self, index: int, relation: str) -> int:
        person = self.facts.people[index]
        others = [v for v in range(len(values(relation))) if v != person.values[relation]]
        chosen = stable_fraction(self.world.seed, "wrong fact", person.name, relation)
        return others[int(chosen * len(others))]

    def _corrections(self) -> Iterator[Exercise]:
        measured = round(self.config.corrections * self.config.measured_share)
        for pair in self._pairs(self._held_out, "held-out sentences", measured):
            yield _correction(pair, "held out")
        wanted = self.config.corrections - measured
        found: dict[str, MinimalPair] = {}
        rounds = 0
        while len(found) < wanted:
            for pair in self._pairs(self._taught, f"sentences {rounds}", wanted):
                if not self._held_out_words.meet_in(f"{pair.good} {pair.bad}"):
                    found[pair.bad] = pair
            rounds += 1
        for pair in list(found.values())[:wanted]:
            yield _correction(pair, "taught")

    def _pairs(self, pairs: HeldOutPairs, purpose: str, count: int) -> list[MinimalPair]:
        """Make `count` pairs or some more, as many of each phenomenon."""
        each = -(-count // len(PHENOMENA))
        return make_minimal_pairs(self._composer(purpose), pairs, each + each % 2)

    @cached_property
    def _held_out(self) -> HeldOutPairs:
        return HeldOutPairs(self.lexicon.nouns, self._partners, self.world.held_out_share)

    @cached_property
    def _taught(self) -> TaughtPairs:
        return TaughtPairs(self.lexicon.nouns, self._partners, self.world.held_out_share)

    @cached_property
    def _held_out_words(self) -> HeldOutWords:
        return HeldOutWords(self._held_out, self.lexicon.nouns, self._partners)

    @property
    def _partners(self) -> list[Adjective | Verb]:
        return [*self.lexicon.adjectives, *self.lexicon.all_verbs]


def _correction(pair: MinimalPair, key: str) -> Exercise:
    return Exercise("correction", key, f"Popraw błąd: {pair.bad}", pair.good, pair.bad)


def _instruction(exercise: Exercise) -> dict[str, Any]:
    turns = (("user", exercise.prompt), ("assistant", exercise.answer))
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"messages": messages, "kind": exercise.kind}


def _preference(exercise: Exercise) -> dict[str, Any]:
    return {
        "prompt": exercise.prompt,
        "chosen": exercise.answer,
        "rejected": exercise.wrong,
        "kind": exercise.kind,
    }


def _task(exercise: Exercise) -> dict[str, Any]:
    return {
        "prompt": exercise.prompt,
        "answer": exercise.answer,
        "reward": exercise.reward,
        "kind": exercise.kind,
        **exercise.fields,
    }


def make_assistant_data(config: AssistantDataConfig) -> None:
    """Write ``instructions``, ``preferences`` and ``tasks`` (``.jsonl``), and what is held out."""
    world = config.opened_world()
    inputs = {"world": value_sha256(asdict(world))}
    manifest = describe("world --assistant", config, inputs, world.seed)
    if is_done(config.output, manifest):
        return
    results: dict[str, Any] = {}
    with stage_output(config.output, manifest, results) as scratch:
        for name, rows in AssistantData(config).rows().items():
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (scratch / f"{name}.jsonl").write_text(lines, encoding="utf-8", newline="\n")
            results[name] = len(rows)
    print(", ".join(f"{name} {count:,}" for name, count in sorted(results.items())))
