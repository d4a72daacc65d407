"""The whole corpus: a world is built from its config and written as JSON lines."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

from nemo_bielik.data.tiny_polish import dialogue, narration, official
from nemo_bielik.data.tiny_polish.facts import MOST_PEOPLE, RELATIONS, ClozeItem, FactWorld
from nemo_bielik.data.tiny_polish.grammar import Composer, finish
from nemo_bielik.data.tiny_polish.lexicon import Adjective, Verb, load_lexicon
from nemo_bielik.data.tiny_polish.minimal_pairs import MinimalPair, make_minimal_pairs
from nemo_bielik.data.tiny_polish.splits import SPLITS, HeldOutPairs
from nemo_bielik.errors import ConfigError, StorageError

_DOMAIN_SHARES = (("narration", 0.5), ("dialogue", 0.25), ("official", 0.25))
_LARGEST_STOCK = 20_000  # ready passages kept for a split that is not being filled yet
_ANSWER_TRIES = 100
WORLD_NAME = "world.json"


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """What to generate. The defaults train on about 4 M tokens of a 4,096-word BPE.

    `fact_share` is the part of the documents that tell facts; `held_out_share` the part of the
    (noun, adjective) and (noun, verb) pairs that training never sees. A document is 1 to 6
    sentences. The corpus depends on nothing but this config.
    """

    seed: int = 0
    people: int = 600
    train_documents: int = 120_000
    recovery_documents: int = 24_000
    calibration_documents: int = 1_000
    validation_documents: int = 1_000
    test_documents: int = 1_000
    fact_share: float = 0.4
    held_out_share: float = 0.06
    pairs_per_phenomenon: int = 150
    cloze_items: int = 1_500

    def __post_init__(self) -> None:
        """Refuse what cannot be generated."""
        for field in fields(self):
            if field.type is int:
                self._require_whole(field.name)
        self._require_between("seed", 0, 2**63 - 1)
        self._require_between("people", 20, MOST_PEOPLE)
        for split in SPLITS:
            self._require_between(f"{split}_documents", 1, 100_000_000)
        self._require_between("fact_share", 0.0, 1.0)
        self._require_between("held_out_share", 0.01, 0.2)
        self._require_between("pairs_per_phenomenon", 2, 1_000)
        self._require_between("cloze_items", 1, self.people * len(RELATIONS))
        if self.pairs_per_phenomenon % 2:
            raise ConfigError(
                f"pairs_per_phenomenon={self.pairs_per_phenomenon}: allowed are even numbers, "
                "because pairs come in twins; add 1"
            )

    def _require_whole(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"{name}={value!r}: allowed are whole numbers; write it as an int")

    def _require_between(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        if not isinstance(value, int | float) or not least <= value <= most:
            raise ConfigError(
                f"{name}={value!r}: allowed are {least} to {most}; choose a number in that range"
            )


@dataclass(frozen=True)
class Document:
    """One line of a split: its text and its domain."""

    text: str
    domain: str


class _Stream:
    """Passages of one domain, each kept for the split that its sentences are hashed to."""

    def __init__(self, make: Callable[[], tuple[str, str] | None]) -> None:
        self._make = make
        self._stock: dict[str, list[str]] = {split: [] for split in SPLITS}

    def take(self, split: str) -> str:
        stock = self._stock[split]
        while not stock:
            made = self._make()
            if made and len(self._stock[made[0]]) < _LARGEST_STOCK:
                self._stock[made[0]].append(made[1])
        return stock.pop()


class World:
    """Everything that a config stands for; `splits` is the large part and is built on demand."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.lexicon = load_lexicon()
        partners: list[Adjective | Verb] = [*self.lexicon.adjectives, *self.lexicon.all_verbs]
        self.held_out = HeldOutPairs(self.lexicon.nouns, partners, config.held_out_share)
        self.facts = FactWorld(config.people, config.seed)

    @cached_property
    def splits(self) -> Mapping[str, list[Document]]:
        """The documents of train, recovery, calibration, validation and test."""
        streams = self._streams()
        composer = self._composer("documents")
        return {split: self._documents(split, streams, composer) for split in SPLITS}

    def minimal_pairs(self) -> list[MinimalPair]:
        """Make the minimal pairs, `pairs_per_phenomenon` of each phenomenon."""
        composer = self._composer("minimal pairs")
        return make_minimal_pairs(composer, self.held_out, self.config.pairs_per_phenomenon)

    def cloze_items(self) -> list[ClozeItem]:
        """Make the fact cloze, spread evenly over the relations."""
        return self.facts.cloze_items(self.config.cloze_items)

    def _composer(self, purpose: str) -> Composer:
        return Composer(self.lexicon, f"{self.config.seed} {purpose}")

    def _streams(self) -> dict[str, _Stream]:
        return {
            "narration": _Stream(self._passages(narration.narration)),
            "dialogue": _Stream(self._exchanges()),
            "official": _Stream(self._passages(official.official)),
        }

    def _passages(self, make: Callable[[Composer], str]) -> Callable[[], tuple[str, str]]:
        composer = self._composer(make.__name__)

        def passage() -> tuple[str, str]:
            sentence = composer.sentence(make(composer))
            return self.held_out.split_of(sentence), sentence.text

        return passage

    def _exchanges(self) -> Callable[[], tuple[str, str] | None]:
        """Make question and answer such that both belong to one split."""
        composer = self._composer("dialogue")

        def exchange() -> tuple[str, str] | None:
            asked, answer = dialogue.question(composer)
            question = composer.sentence(f"– {asked}")
            split = self.held_out.split_of(question)
            for _ in range(_ANSWER_TRIES):
                reply = composer.sentence(f"– {finish(answer())}")
                if self.held_out.split_of(reply) == split:
                    return split, f"{question.text} {reply.text}"
            return None

        return exchange

    def _documents(self, split: str, streams: Mapping[str, _Stream], c: Composer) -> list[Document]:
        count: int = getattr(self.config, f"{split}_documents")
        fact_count = round(count * self.config.fact_share)
        documents = [Document(text, "facts") for text in self._biographies(split, fact_count, c)]
        for domain in self._domains(count - fact_count):
            # A passage of dialogue is two sentences.
            length = c.pick((1, 2, 2, 3) if domain == "dialogue" else (1, 2, 3, 4, 5, 6))
            passages = (streams[domain].take(split) for _ in range(length))
            documents.append(Document(" ".join(passages), domain))
        return _shuffled(documents, c)

    @staticmethod
    def _domains(count: int) -> list[str]:
        """Divide so many documents among the domains, the remainder going to narration."""
        domains = [domain for domain, share in _DOMAIN_SHARES for _ in range(int(count * share))]
        return domains + ["narration"] * (count - len(domains))

    def _biographies(self, split: str, count: int, c: Composer) -> list[str]:
        """Tell each person's facts in random order, going round the people and the wordings."""
        told = self._wordings_of(split)
        turns: Counter[tuple[int, str]] = Counter()
        texts: list[str] = []
        while len(texts) < count:
            for person, relations in told.items():
                length = c.pick((1, 2, 3, 4, 5, 5))
                sentences = []
                for relation in _shuffled(list(relations), c)[:length]:
                    options = relations[relation]
                    wording = options[turns[person, relation] % len(options)]
                    turns[person, relation] += 1
                    sentences.append(self.facts.render(person, relation, wording))
                texts.append(" ".join(sentences))
        return texts[:count]

    def _wordings_of(self, split: str) -> dict[int, dict[str, list[int]]]:
        told: dict[int, dict[str, list[int]]] = {}
        for person, relation, wording in self.facts.tellings[split]:
            told.setdefault(person, {}).setdefault(relation, []).append(wording)
        return told


def _shuffled[T](items: list[T], c: Composer) -> list[T]:
    keys = [c.random() for _ in items]
    return [items[index] for index in sorted(range(len(items)), key=keys.__getitem__)]


def write_world(directory: Path, config: WorldConfig) -> dict[str, int]:
    """Write the world's files into `directory` and return the number of lines of each.

    ``train``, ``recovery``, ``calibration``, ``validation`` and ``test`` hold ``{"text",
    "domain"}``; ``minimal_pairs`` ``{"phenomenon", "good", "bad"}``; ``facts`` ``{"relation",
    "prompt", "answer", "candidates", "suffix"}``, where prompt + candidate + suffix is a sentence.
    Each file appears whole or not at all; ``world.json``, written last, tells that all are there.
    """
    world = World(config)
    rows: dict[str, Iterable[Document | MinimalPair | ClozeItem]] = {
        **world.splits,
        "minimal_pairs": world.minimal_pairs(),
        "facts": world.cloze_items(),
    }
    _make_directory(directory)
    counts: dict[str, int] = {}
    for name, items in rows.items():
        lines = [json.dumps(vars(item), ensure_ascii=False) for item in items]
        _write_whole(directory / f"{name}.jsonl", "".join(f"{line}\n" for line in lines))
        counts[name] = len(lines)
    summary = {"config": asdict(config), "counts": counts}
    _write_whole(directory / WORLD_NAME, json.dumps(summary, indent=2) + "\n")
    return counts


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # A half-replaced world must not look finished.
        (directory / WORLD_NAME).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{directory}: not a writable directory ({error.strerror}); name another one"
        ) from error


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)
