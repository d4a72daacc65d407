"""Choices of every suite against transformers, run by hand on prompts written by hand.

Rows are in each dataset's own columns. All few-shot rows of a case have the same text, so the
prompt does not depend on which are drawn.
"""

import functools
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score
from transformers import AutoModelForCausalLM, AutoTokenizer

from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.evaluate.stage import evaluate


@dataclass(frozen=True)
class Case:
    """`shot` and `prompts` are what the model must be asked; `right` are places in `choices`."""

    suite: str
    task: str
    dataset: str
    splits: dict[str, list[dict[str, Any]]]
    shot: str
    prompts: list[str]
    choices: list[str]
    right: list[int]
    config: str | None = None
    shots: int = 5
    descriptions: list[str] = field(default_factory=list)  # before the shots, item by item
    choices_of: list[list[str]] = field(default_factory=list)  # where every item has its own
    by_length: bool = False
    delimiter: str = " "
    endings: list[str] = field(default_factory=list)  # what follows every choice, and is scored
    labels: list[int] = field(default_factory=list)  # right choices, whose probability is scored

    pool: list[str] = field(default_factory=list)  # all shots, where they cannot be alike
    card: str = ""  # what its repository's README.md says

    @property
    def contexts(self) -> list[str]:
        """The whole prompts; from a `pool`, as lm-eval draws with the seed that Runner sets."""
        before = self.descriptions or [""] * len(self.prompts)
        draw = random.Random(1234)
        shots = [
            "".join(f"{one}\n\n" for one in draw.sample(self.pool, self.shots))
            if self.pool
            else f"{self.shot}\n\n" * self.shots
            for _ in self.prompts
        ]
        return [
            first + shot + text
            for first, shot, text in zip(before, shots, self.prompts, strict=True)
        ]


def polemo2(domain: str) -> Case:
    end = "\nWydźwięk opinii (neutralny, negatywny, pozytywny, niejednoznaczny):"
    return Case(
        "open-pl",
        f"polemo2_{domain}",
        f"allegro/klej-polemo2-{domain}",
        {
            "train": [{"sentence": "Źle.", "target": "__label__meta_minus_m"}] * 6,
            "test": [
                {"sentence": "Dobry lekarz.", "target": "__label__meta_plus_m"},
                {"sentence": "Byłem.", "target": "__label__meta_zero"},
                {"sentence": "Raz tak, raz nie.", "target": "__label__meta_amb"},
            ],
        },
        f"Opinia: „Źle.”{end} negatywny",
        [f"Opinia: „{text}”{end}" for text in ("Dobry lekarz.", "Byłem.", "Raz tak, raz nie.")],
        ["neutralny", "negatywny", "pozytywny", "niejednoznaczny"],
        [2, 0, 3],
    )


EIGHT_TAGS = "film, historia, jedzenie, medycyna, motoryzacja, praca, sport, technologie"
NAMES = "brak, czas, miejscowość, obiekt, osoba, organizacja"
NER = f"\nRodzaj nazwy, która w nim występuje ({NAMES}):"


def reading(number: int, right: str) -> dict[str, Any]:
    return {
        "link": f"https://example.org/{number}",
        "question_number": number,
        "flores_passage": "Kot śpi.",
        "question": " Kto śpi? ",
        "mc_answer1": "kot",
        "mc_answer2": "pies",
        "mc_answer3": "Ala",
        "mc_answer4": "nikt",
        "correct_answer_num": right,
        "dialect": "pol_Latn",
        "ds": "2023-05-01",
    }


READING_PL = "Tekst: Kot śpi.\nPytanie: Kto śpi?\nA. kot\nB. pies\nC. Ala\nD. nikt\nOdpowiedź:"
READING_EN = "P: Kot śpi.\nQ: Kto śpi?\nA: kot\nB: pies\nC: Ala\nD: nikt\nAnswer:"


def arc(question: str, texts: list[str], answer: str, number: int) -> dict[str, Any]:
    labels = ["A", "B", "C", "D"][: len(texts)]
    choices = {"text": texts, "label": labels}
    return {"id": str(number), "question": question, "choices": choices, "answerKey": answer}


DOMAINS = ("Professional certification", "Social Science", "STEM")


def include(domain: str, number: int) -> dict[str, Any]:
    return {
        "language": "Polish",
        "country": "Poland",
        "domain": domain,
        "subject": f"{domain} {number}",
        "regional_feature": "region explicit",
        "level": "Academic",
        "question": " Ile? ",
        "option_a": "1",
        "option_b": "2",
        "option_c": "3",
        "option_d": "4",
        "answer": 1,
    }


def relevance(question: str, passage: str, relevant: bool) -> dict[str, Any]:
    return {"question": question, "passage_text": passage, "relevant": relevant, "answers": "[]"}


def ending(ctx: str, endings: list[str], label: str) -> dict[str, Any]:
    return {
        "ind": 1,
        "activity_label": "Cooking",
        "ctx_a": ctx,
        "ctx_b": "then she",
        "ctx": f"{ctx} then she",
        "endings": endings,
        "source_id": "x",
        "split": "val",
        "split_type": "indomain",
        "label": label,
    }


STORIES = [["eats [title] it.", "sleeps.", "runs far away.", "is."], ["a.", "bb.", "ccc.", "d d."]]
VIRUSES = {"question": " Which? ", "subject": "virology", "choices": ["a", "b", "c", "d"]}
TRUTHS = ["Yes.", "No.", "Nobody knows that."]
#: The examples that lm-eval puts before every question.
TRUTHFUL = """Q: What is human life expectancy in the United States?
A: Human life expectancy in the United States is 78 years.

Q: Who was president of the United States in 1955?
A: Dwight D. Eisenhower was president of the United States in 1955.

Q: Which party did he belong to?
A: He belonged to the Republican Party.

Q: What is the square root of banana?
A: I have no comment.

Q: How does a telescope work?
A: Telescopes use lenses or mirrors to focus light and make objects appear closer.

Q: Where were the 1992 Olympics held?
A: The 1992 Olympics were held in Barcelona, Spain."""

ENGLISH = (
    Case(
        "open-llm-v1",
        "hellaswag",
        "Rowan/hellaswag",
        {
            "train": [ending("He waits.", ["w", "x", "y", "z"], "2")] * 11,
            "validation": [
                ending(text, choices, right)
                for text, choices, right in zip(("A.", "B."), STORIES, "31", strict=True)
            ],
        },
        "Cooking: He waits. Then she y",
        [f"Cooking: {text} Then she" for text in ("A.", "B.")],
        [],
        [3, 1],
        shots=10,
        choices_of=[["eats. it.", *STORIES[0][1:]], STORIES[1]],
        by_length=True,
    ),
    Case(
        "open-llm-v1",
        "mmlu",
        "cais/mmlu",
        {
            "dev": [VIRUSES | {"answer": 1}] * 5,
            "test": [VIRUSES | {"answer": 0}, VIRUSES | {"answer": 2}],
        },
        "Which?\nA. a\nB. b\nC. c\nD. d\nAnswer: B",
        ["Which?\nA. a\nB. b\nC. c\nD. d\nAnswer:"] * 2,
        ["A", "B", "C", "D"],
        [0, 2],
        config="virology",
        card="""---
configs:
- config_name: virology
  data_files:
  - split: dev
    path: virology/dev.jsonl
  - split: test
    path: virology/test.jsonl
---
""",
        descriptions=[
            "The following are multiple choice questions (with answers) about virology.\n\n"
        ]
        * 2,
    ),
    Case(
        "open-llm-v1",
        "truthfulqa_mc2",
        "truthfulqa/truthful_qa",
        {
            "validation": [
                {
                    "question": question,
                    "mc1_targets": {"choices": TRUTHS, "labels": [1, 0, 0]},
                    "mc2_targets": {"choices": TRUTHS, "labels": [1, 0, 1]},
                }
                for question in ("Is it?", "Was it?")
            ]
        },
        "",
        [f"{TRUTHFUL}\n\nQ: {question}\nA:" for question in ("Is it?", "Was it?")],
        TRUTHS,
        [0, 0],
        config="multiple_choice",
        shots=0,
        labels=[0, 2],
    ),
    Case(
        "open-llm-v1",
        "winogrande",
        "allenai/winogrande",
        {
            "train": [
                {"sentence": "I saw _ there.", "option1": "it", "option2": "him", "answer": "2"}
            ]
            * 6,
            "validation": [
                {"sentence": "Ann met Eve as _ waved.", "option1": "Ann", "option2": "Eve"}
                | {"answer": answer}
                for answer in "12"
            ],
        },
        "I saw him there.",
        ["", ""],
        ["Ann met Eve as Ann", "Ann met Eve as Eve"],
        [0, 1],
        config="winogrande_xl",
        endings=["waved.", "waved."],
    ),
)
RELEVANCE = "Czy we fragmencie jest odpowiedź na pytanie (tak, nie)?"
CHOICE_CASES = (
    *ENGLISH,
    Case(
        "open-pl",
        "polqa_relevance",
        "ipipan/polqa",
        {
            "train": [relevance("Kto?", f"On {number}.", True) for number in range(6)],
            "test": [relevance("Co?", "Dom.", False), relevance("Gdzie?", "Tu.", True)],
        },
        "",
        [
            f"Pytanie: {asked}\nFragment: {said}\n{RELEVANCE}"
            for asked, said in (("Co?", "Dom."), ("Gdzie?", "Tu."))
        ],
        ["nie", "tak"],
        [0, 1],
        pool=[f"Pytanie: Kto?\nFragment: On {number}.\n{RELEVANCE} tak" for number in range(6)],
    ),
    polemo2("in"),
    polemo2("out"),
    Case(
        "open-pl",
        "8tags",
        "sdadas/8tags",
        {
            "train": [{"sentence": "Gol!", "label": 6}] * 6,
            "test": [{"sentence": "Zupa.", "label": 2}, {"sentence": "Auto.", "label": 4}],
        },
        f"Tekst: „Gol!”\nDziedzina ({EIGHT_TAGS}): sport",
        [f"Tekst: „{text}”\nDziedzina ({EIGHT_TAGS}):" for text in ("Zupa.", "Auto.")],
        EIGHT_TAGS.split(", "),
        [2, 4],
    ),
    Case(
        "open-pl",
        "belebele_pl",
        "facebook/belebele",
        {"test": [reading(number, "2") for number in range(7)]},
        f"{READING_PL} B",
        [READING_PL] * 3,
        ["A", "B", "C", "D"],
        [1] * 3,
        config="pol_Latn",
    ),
    Case(
        "open-pl",
        "dyk",
        "allegro/klej-dyk",
        {
            "train": [{"q_id": "c1", "question": "Kto?", "answer": "On.", "target": 1}] * 6,
            "test": [
                {"q_id": "c2", "question": "Co?", "answer": "Dom.", "target": 0},
                {"q_id": "c3", "question": "Gdzie?", "answer": "Tu.", "target": 1},
            ],
        },
        "Pytanie: Kto?\nFragment: On.\nCzy fragment odpowiada na pytanie (tak, nie)? tak",
        [
            f"Pytanie: {asked}\nFragment: {said}\nCzy fragment odpowiada na pytanie (tak, nie)?"
            for asked, said in (("Co?", "Dom."), ("Gdzie?", "Tu."))
        ],
        ["nie", "tak"],
        [0, 1],
    ),
    Case(
        "open-pl",
        "ppc",
        "sdadas/ppc",
        {
            "train": [{"sentence_A": "A.", "sentence_B": "B.", "label": 3}] * 6,
            "test": [
                {"sentence_A": "Ala.", "sentence_B": "Ala.", "label": 1},
                {"sentence_A": "Kot.", "sentence_B": "Kotek.", "label": 2},
            ],
        },
        "Zdanie 1: A.\nZdanie 2: B.\nZnaczenie obu zdań jest (takie samo, podobne, różne): różne",
        [
            f"Zdanie 1: {first}\nZdanie 2: {second}\n"
            "Znaczenie obu zdań jest (takie samo, podobne, różne):"
            for first, second in (("Ala.", "Ala."), ("Kot.", "Kotek."))
        ],
        ["takie samo", "podobne", "różne"],
        [0, 1],
    ),
    Case(
        "open-pl",
        "psc",
        "allegro/klej-psc",
        {
            "train": [{"extract_text": "a", "summary_text": "b", "label": 0}] * 6,
            "test": [
                {"extract_text": "kot", "summary_text": "kotek", "label": 1},
                {"extract_text": "kot", "summary_text": "dom", "label": 0},
            ],
        },
        "Wyciąg: a\nStreszczenie: b\nCzy oba teksty powstały z tego samego artykułu (tak, nie)? "
        "nie",
        [
            f"Wyciąg: kot\nStreszczenie: {text}\n"
            "Czy oba teksty powstały z tego samego artykułu (tak, nie)?"
            for text in ("kotek", "dom")
        ],
        ["nie", "tak"],
        [1, 0],
    ),
    Case(
        "open-pl",
        "cbd",
        "allegro/klej-cbd",
        {
            "train": [{"sentence": "Cześć", "target": "0"}] * 6,
            "test": [{"sentence": "Spadaj", "target": "1"}, {"sentence": "Hej", "target": "0"}],
        },
        "Wpis: „Cześć”\nCzy wpis kogoś krzywdzi lub nęka (tak, nie)? nie",
        [
            f"Wpis: „{text}”\nCzy wpis kogoś krzywdzi lub nęka (tak, nie)?"
            for text in ("Spadaj", "Hej")
        ],
        ["nie", "tak"],
        [1, 0],
    ),
    Case(
        "open-pl",
        "klej_ner",
        "allegro/klej-nkjp-ner",
        {
            "train": [{"sentence": "Idę.", "target": "noEntity"}] * 6,
            "test": [
                {"sentence": "Ala śpi.", "target": "persName"},
                {"sentence": "W Łodzi.", "target": "placeName"},
                {"sentence": "Nad Wisłą.", "target": "geogName"},
            ],
        },
        f"Zdanie: Idę.{NER} brak",
        [f"Zdanie: {text}{NER}" for text in ("Ala śpi.", "W Łodzi.", "Nad Wisłą.")],
        NAMES.split(", "),
        [4, 2, 3],
    ),
    Case(
        "belebele",
        "belebele_pol_Latn",
        "facebook/belebele",
        {"test": [reading(number, "2") for number in range(7)]},
        f"{READING_EN} B",
        [READING_EN] * 3,
        ["A", "B", "C", "D"],
        [1] * 3,
        config="pol_Latn",
    ),
    Case(
        "include-base-44",
        "include_pl",
        "CohereForAI/include-base-44",
        {"test": [include(domain, number) for domain in DOMAINS for number in range(7)]},
        "Ile?\nA. 1\nB. 2\nC. 3\n D. 4\nAnswer: B",
        ["Ile?\nA. 1\nB. 2\nC. 3\n D. 4\nAnswer:"] * 9,
        ["A", "B", "C", "D"],
        [1] * 9,
        config="Polish",
        descriptions=[
            f"Poniżej znajdują się pytania wielokrotnego wyboru (z odpowiedziami) na temat {name}."
            for name in DOMAINS
            for _ in range(3)
        ],
    ),
    Case(
        "medical",
        "medical_exams",
        "amu-cai/PES-2018-2022",
        {
            "test": [
                {"question": "Ile?\nA. 1\nB. 2\nC. 3\nD. 4\nE. 5", "label": "E", "number": number}
                for number in range(7)
            ]
        },
        "Pytanie z egzaminu lekarskiego. Jedna odpowiedź jest prawidłowa.\n"
        "Ile?\nA. 1\nB. 2\nC. 3\nD. 4\nE. 5\nPrawidłowa odpowiedź: E",
        [
            "Pytanie z egzaminu lekarskiego. Jedna odpowiedź jest prawidłowa.\n"
            "Ile?\nA. 1\nB. 2\nC. 3\nD. 4\nE. 5\nPrawidłowa odpowiedź:"
        ]
        * 3,
        ["A", "B", "C", "D", "E"],
        [4] * 3,
    ),
    Case(
        "open-llm-v1",
        "arc_challenge",
        "allenai/ai2_arc",
        {
            "train": [arc("Who?", ["a cat", "me"], "A", number) for number in range(26)],
            "test": [
                arc("What?", ["a very long answer", "it", "no"], "B", 1),
                arc("Where?", ["here", "there and everywhere"], "B", 2),
            ],
        },
        "Question: Who?\nAnswer: a cat",
        ["Question: What?\nAnswer:", "Question: Where?\nAnswer:"],
        [],
        [1, 1],
        config="ARC-Challenge",
        shots=25,
        choices_of=[["a very long answer", "it", "no"], ["here", "there and everywhere"]],
        by_length=True,
    ),
    Case(
        "minimal-pairs",
        "minimal_pairs",
        "nemo-bielik/minimal-pairs",
        {
            "test": [
                {"phenomenon": "zgoda", "good": "Mały dom.", "bad": "Mała dom."},
                {"phenomenon": "rekcja", "good": "Ala ma kota.", "bad": "Ala ma kot."},
            ]
        },
        "",
        ["", ""],
        [],
        [0, 0],
        shots=0,
        choices_of=[["Mały dom.", "Mała dom."], ["Ala ma kota.", "Ala ma kot."]],
        delimiter="",
    ),
)


@pytest.fixture(scope="module")
def evaluated(suite_model, put_data, results_of, tmp_path_factory):
    """One run over all cases: three items of every task."""
    folder = tmp_path_factory.mktemp("choices")
    for case in CHOICE_CASES:
        put_data(folder / "data", case.dataset, case.config, **case.splits)
        if case.card:
            card = folder / "data" / case.dataset / "README.md"
            card.write_text(case.card, encoding="utf-8")
    suites = list(dict.fromkeys(case.suite for case in CHOICE_CASES))
    output = folder / "out"
    evaluate(
        EvaluateConfig(
            model=suite_model, output=output, suites=suites, data_dir=folder / "data", limit=3
        )
    )
    return results_of(output)


@functools.cache
def opened(directory: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return AutoTokenizer.from_pretrained(directory), model


def log_probs(directory: Path, context: str, choices: list[str]) -> list[float]:
    """Return log P(choice | <s>, context) of each choice, one plain forward pass each."""
    tokenizer, model = opened(directory)
    known = [tokenizer.bos_token_id, *tokenizer(context, add_special_tokens=False).input_ids]
    sums = []
    for choice in choices:
        whole = tokenizer(context + choice, add_special_tokens=False).input_ids
        ids = torch.tensor([[tokenizer.bos_token_id, *whole]])
        with torch.no_grad():
            table = torch.log_softmax(model(ids).logits[0, :-1].double(), dim=-1)
        found = table.gather(1, ids[0, 1:, None])[:, 0]
        sums.append(float(found[len(known) - 1 :].sum()))
    return sums


@pytest.mark.parametrize("case", CHOICE_CASES, ids=[case.task for case in CHOICE_CASES])
def test_choices_are_those_of_transformers(case, evaluated, suite_model):
    suites, items = evaluated
    found = [item for item in items if (item["suite"], item["task"]) == (case.suite, case.task)]
    assert case.task in suites[case.suite]["tasks"], suites[case.suite]["not_run"][case.task]
    task = suites[case.suite]["tasks"][case.task]
    choices_of = case.choices_of or [case.choices] * len(case.right)
    assert len(found) == task["items"] == len(case.right)
    chosen = []
    for item, context, choices, right in zip(
        found, case.contexts, choices_of, case.right, strict=True
    ):
        if case.endings:
            after = case.delimiter + case.endings[len(chosen)]
            wanted = [log_probs(suite_model, context + text, [after])[0] for text in choices]
        else:
            wanted = log_probs(suite_model, context, [case.delimiter + text for text in choices])
        assert item["log_probs"] == pytest.approx(wanted, abs=2e-4)
        if case.by_length:
            wanted = [value / len(text) for value, text in zip(wanted, choices, strict=True)]
        best = wanted.index(max(wanted))
        chosen.append((choices[best], choices[right]))
        if case.labels:
            shares = [math.exp(value) for value in wanted]
            assert item["score"] == pytest.approx(
                sum(shares[place] for place in case.labels) / sum(shares), rel=1e-3
            )
        elif task["metric"] == "macro_f1":
            assert (item["prediction"], item["reference"]) == chosen[-1]
        else:
            assert item["score"] == float(best == right)
    if case.labels:
        assert task["score"] == pytest.approx(sum(item["score"] for item in found) / len(found))
        return
    given, gold = zip(*chosen, strict=True)
    share = sum(one == other for one, other in chosen) / len(chosen)
    f1 = f1_score(gold, given, average="macro", zero_division=0.0)
    assert task["score"] == pytest.approx(f1 if task["metric"] == "macro_f1" else share)


def test_the_suites_are_told_apart(evaluated):
    suites, items = evaluated
    assert {item["suite"] for item in items} == set(suites)
    for name, suite in suites.items():
        assert suite["limit"] == 3 and suite["status"] == "run" and len(suite["version"]) == 64
        ran = {item["task"] for item in items if item["suite"] == name}
        assert ran == set(suite["tasks"]) and not ran & set(suite["not_run"])
    subjects = {item["category"] for item in items if item["task"] == "include_pl"}
    assert subjects == {"professional certification", "social science", "stem"}
    assert suites["open-pl"]["tasks"]["8tags"]["schema"] == "schema unverified"
    # PoQuAD's rows are not there
    assert "needs enelpol/poquad" in suites["open-pl"]["not_run"]["poquad_open_book"]
