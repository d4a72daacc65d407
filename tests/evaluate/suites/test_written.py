"""Written answers: a real HTTP server gives answers chosen by hand, scores are computed by hand."""

import math
import re

import pytest

from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.evaluate.stage import evaluate
from nemo_bielik.evaluate.suites.tasks.answers import is_right
from nemo_bielik.evaluate.suites.tasks.eq_bench import score_first_ratings

DYK = "Czy fragment odpowiada na pytanie (tak, nie)?"
TAGS = "Dziedzina (film, historia, jedzenie, medycyna, motoryzacja, praca, sport, technologie):"


def polqa(question: str, passage: str, answers: str, relevant: bool = True) -> dict:
    """A row of ipipan/polqa; its answers are a list written out as text."""
    return {
        "question_id": 1,
        "passage_title": "t",
        "passage_text": passage,
        "passage_wiki": "w",
        "passage_id": "1",
        "duplicate": False,
        "question": question,
        "relevant": relevant,
        "annotated_by": "a",
        "answers": answers,
        "question_formulation": "f",
        "question_type": "t",
        "entity_type": "e",
        "entity_subtype": "s",
        "split": "test",
        "passage_source": "human",
    }


def poquad(question: str, answers: list[str]) -> dict:
    return {
        "id": question,
        "title": "Kot",
        "context": "Kot śpi.",
        "question": question,
        "answers": {"text": answers, "answer_start": [0] * len(answers), "generative_answer": []},
        "is_impossible": not answers,
    }


SHOTS = [polqa(f"Pytanie {n}?", f"Tekst {n}.", "['tak']") for n in range(6)]
EMOTIONS = ("Radość", "Złość", "Głęboki smutek", "Ulga")
REFERENCE = {f"emotion{n}": name for n, name in enumerate(EMOTIONS, start=1)} | {
    "emotion1_score": 8,
    "emotion2_score": "0",
    "emotion3_score": 3,
    "emotion4_score": 5,
}
#: dataset → (configuration, splits)
DATA = {
    "allegro/klej-dyk": (
        None,
        {
            "train": [{"q_id": "c", "question": "Kto?", "answer": "On.", "target": 1}] * 6,
            "test": [
                {"q_id": "c1", "question": "Co?", "answer": "Dom.", "target": 1},
                {"q_id": "c2", "question": "Gdzie?", "answer": "Tu.", "target": 0},
                {"q_id": "c3", "question": "Jak?", "answer": "Tak.", "target": 1},
            ],
        },
    ),
    "sdadas/8tags": (
        None,
        {
            "train": [{"sentence": "Gol!", "label": 6}] * 6,
            "test": [{"sentence": "Zupa.", "label": 2}, {"sentence": "Auto.", "label": 4}],
        },
    ),
    "ipipan/polqa": (
        None,
        {
            "train": SHOTS,
            "validation": SHOTS,
            "test": [
                polqa("Stolica?", "W Łodzi.", "['Łódź', 'Lodz']"),
                polqa("Stolica?", "W Łodzi.", "['Łódź', 'Lodz']"),
                polqa("Stolica?", "Nie tu.", "['Łódź', 'Lodz']", relevant=False),
                polqa("Kiedy?", "W 1410 roku.", "['w 1410 roku']"),
                polqa("Kto?", "Jagiełło.", "['Władysław Jagiełło']"),
            ],
        },
    ),
    "enelpol/poquad": (
        None,
        {
            "train": [poquad("Kto?", ["Kot"])] * 6,
            "validation": [poquad("Kto śpi?", ["Kot"]), poquad("Kto je?", [])],
        },
    ),
    "speakleash/EQ-Bench-PL": (
        None,
        {
            "validation": [
                {
                    "prompt": f"Rozmowa {n}.",
                    "reference_answer": str(REFERENCE),
                    "reference_answer_fullscale": str(REFERENCE),
                }
                for n in range(2)
            ]
        },
    ),
    "facebook/flores": (
        "all",
        {
            "dev": [
                {"id": n, "sentence_eng_Latn": "Yes.", "sentence_pol_Latn": "Tak."}
                for n in range(6)
            ],
            "devtest": [
                {"id": 1, "sentence_eng_Latn": "one", "sentence_pol_Latn": "ala ma kota i kota"},
                {"id": 2, "sentence_eng_Latn": "two", "sentence_pol_Latn": "stary dom stoi tu"},
            ],
        },
    ),
    "openai/gsm8k": (
        "main",
        {
            "train": [{"question": "1+1?", "answer": "Two.\n#### 2"}] * 6,
            "test": [
                {"question": "3+4?", "answer": "Seven.\n#### 7"},
                {"question": "600+400?", "answer": "Many.\n#### 1,000"},
                {"question": "2+2?", "answer": "Four.\n#### 4"},
            ],
        },
    ),
}

#: the end of a prompt → what the server answers
SCRIPT = {
    f"Pytanie: Co?\nFragment: Dom.\n{DYK}": " Tak, bo to dom.",
    f"Pytanie: Gdzie?\nFragment: Tu.\n{DYK}": "\nNIE",
    f"Pytanie: Jak?\nFragment: Tak.\n{DYK}": " może",
    f"Tekst: „Zupa.”\n{TAGS}": " Jedzenie.",
    f"Tekst: „Auto.”\n{TAGS}": " sport",
    "Fragment: W Łodzi.\nPytanie: Stolica?\nOdpowiedź:": " łódz.",
    "Fragment: W 1410 roku.\nPytanie: Kiedy?\nOdpowiedź:": " 1410",
    "Fragment: Jagiełło.\nPytanie: Kto?\nOdpowiedź:": " Jagiełło",
    "Pytanie: Stolica?\nOdpowiedź:": " Warszawa",
    "Pytanie: Kiedy?\nOdpowiedź:": " w 1401 roku",
    "Pytanie: Kto?\nOdpowiedź:": " Władysława Jagiełłę",
    "Tytuł: Kot\nFragment: Kot śpi.\nPytanie: Kto śpi?\n"
    "Odpowiedź, krótki cytat z fragmentu:": " kot",
    "Rozmowa 0.\nPierwsze oceny:\n": "Radość: 8\nZłość: 0\nGłęboki smutek: 3\nUlga: 5\n",
    "Rozmowa 1.\nPierwsze oceny:\n": "Radość: 6\nZłość: 0\nGłęboki smutek: 3\nUlga: 5\n",
    "English: one\nPolish:": " ala ma kota i psa",
    "English: two\nPolish:": " stary dom stoi tu",
    "Polish: ala ma kota i kota\nEnglish:": " one",
    "Polish: stary dom stoi tu\nEnglish:": " three",
    "Question: 3+4?\nAnswer:": " It is 7.\n#### 7",
    "Question: 600+400?\nAnswer:": " #### 1000",
    "Question: 2+2?\nAnswer:": " It is 4.",
}
SUITES = ["open-pl", "eq-bench-pl", "flores", "open-llm-v1"]


@pytest.fixture(scope="module")
def evaluated(put_data, results_of, serving, tmp_path_factory):
    """One run of everything that is written, and the prompts that the server saw."""
    folder = tmp_path_factory.mktemp("written")
    for dataset, (config, splits) in DATA.items():
        put_data(folder / "data", dataset, config, **splits)
    seen = []

    def answer(request):
        seen.append(request)
        ends = [end for end in SCRIPT if request["prompt"].endswith(end)]
        text = SCRIPT[max(ends, key=len)]
        return {"choices": [{"index": 0, "text": text}]}

    with serving(answer) as url:
        evaluate(
            EvaluateConfig(
                endpoint=url,
                endpoint_model="m",
                output=folder / "out",
                suites=SUITES,
                data_dir=folder / "data",
            )
        )
    return *results_of(folder / "out"), seen


def scores(items: list[dict], task: str) -> list[float]:
    return [item["score"] for item in items if item["task"] == task]


def test_the_first_allowed_word_is_the_answer(evaluated):
    suites, items, _ = evaluated
    dyk = [item for item in items if item["task"] == "dyk_written"]
    assert [item["prediction"] for item in dyk] == ["tak", "nie", "[invalid]"]
    assert [item["reference"] for item in dyk] == ["tak", "nie", "tak"]
    # tak: precision 1, recall 1/2 (an answer that is neither misses it), so F1 2/3; nie: 1
    assert suites["open-pl"]["tasks"]["dyk_written"]["score"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores(items, "8tags_written") == [1.0, 0.0]
    assert dyk[0]["answer"] == " Tak, bo to dom."


def test_questions_are_answered_by_polqa_s_rule(evaluated):
    suites, items, _ = evaluated
    # "łódz" is one letter from "łódź"; numbers must be equal; 11 letters of 18 are missing
    assert scores(items, "polqa_open_book") == [1.0, 1.0, 0.0]
    assert scores(items, "polqa_closed_book") == [0.0, 0.0, 1.0]
    assert scores(items, "poquad_open_book") == [1.0]  # the question without an answer is left out
    assert suites["open-pl"]["tasks"]["polqa_open_book"]["score"] == pytest.approx(2 / 3)


def test_ratings_of_emotions(evaluated):
    suites, items, _ = evaluated
    off_by_two = 10 * (10 - 0.7477 * 6.5 / (1 + math.exp(-1.2 * (2 - 4))))
    assert scores(items, "eq_bench_pl") == pytest.approx([100.0, off_by_two])
    assert suites["eq-bench-pl"]["tasks"]["eq_bench_pl"]["score"] == pytest.approx(
        (100 + off_by_two) / 2
    )


def test_ratings_are_scored_as_lm_eval_does_in_english():
    from lm_eval.tasks.eq_bench.utils import calculate_score_fullscale

    reference = str(
        {f"emotion{n}": f"e{n}" for n in range(1, 5)}
        | {f"emotion{n}_score": n for n in range(1, 5)}
    )
    doc = {"reference_answer": reference, "reference_answer_fullscale": reference}
    for ratings in ((1, 2, 3, 4), (0, 9, 3, 10), (5, 5, 5, 5)):
        answer = "\n".join(f"e{n}: {rating}" for n, rating in enumerate(ratings, start=1))
        wanted = calculate_score_fullscale(doc, [answer])["eqbench"]
        assert score_first_ratings(doc, [answer])["eq_bench"] == pytest.approx(wanted)


@pytest.mark.parametrize("answer", ["", "Radość: 8", "Radość: 8\nZłość: 0\nUlga: 5\nInne: 3"])
def test_unreadable_ratings_score_nothing(answer):
    assert score_first_ratings({"reference_answer": str(REFERENCE)}, [answer])["eq_bench"] == 0.0


def test_bleu_of_the_whole_direction(evaluated):
    suites, items, _ = evaluated
    tasks = suites["flores"]["tasks"]
    assert set(tasks) == {"flores_en_pl", "flores_pl_en"}
    # 1- to 4-grams that match, of both sentences together: 8/9, 6/7, 4/5, 2/3; equal lengths
    bleu = 100 * (8 / 9 * 6 / 7 * 4 / 5 * 2 / 3) ** (1 / 4)
    assert tasks["flores_en_pl"]["score"] == pytest.approx(bleu)
    first = next(item for item in items if item["task"] == "flores_en_pl")
    assert first["prediction"] == " ala ma kota i psa"
    assert first["references"] == ["ala ma kota i kota"]
    assert (first["language"], first["category"]) == ("en", "to Polish")
    assert suites["flores"]["status"] == "run"
    assert suites["flores"]["reason"].startswith("38 of 40 tasks not run; the first, flores_bg_pl")


def test_numbers_count_only_in_the_asked_format(evaluated):
    suites, items, _ = evaluated
    assert scores(items, "gsm8k") == [1.0, 1.0, 0.0]
    assert suites["open-llm-v1"]["tasks"]["gsm8k"]["few_shot"] == 5


def test_prompts_and_settings_are_those_of_the_task_files(evaluated):
    _, _, seen = evaluated
    prompts = [request["prompt"] for request in seen]
    shot = f"Pytanie: Kto?\nFragment: On.\n{DYK} tak\n\n"
    assert shot * 5 + f"Pytanie: Co?\nFragment: Dom.\n{DYK}" in prompts
    assert "English: Yes.\nPolish: Tak.\n\n" * 5 + "English: one\nPolish:" in prompts
    assert "Rozmowa 0.\nPierwsze oceny:\n" in prompts
    assert all(request["temperature"] == 0 for request in seen)
    translation = next(request for request in seen if "English: one" in request["prompt"])
    assert translation["stop"] == ["\n", "</s>"] and translation["max_tokens"] == 256


def test_choices_are_not_run_and_say_why(evaluated):
    suites, _, _ = evaluated
    reason = suites["open-pl"]["not_run"]["dyk"]
    assert (
        reason == "choices on a server need --tokenizer, the directory with the model's tokenizer"
    )


def test_a_password_is_found_in_a_long_text(serving, results_of, tmp_path):
    prompts = []

    def answer(request):
        prompts.append(request["prompt"])
        owner = re.search(r"Jakie hasło ma (\w+)\?", request["prompt"])[1]
        password = re.search(rf"{owner} ma hasło (\d+)\.", request["prompt"])[1]
        text = f" {password}." if len(prompts) % 2 else " 00000"
        return {"choices": [{"index": 0, "text": text}]}

    with serving(answer) as url:
        config = EvaluateConfig(
            endpoint=url,
            endpoint_model="m",
            output=tmp_path / "out",
            suites=["long-context"],
            concurrency=1,
        )
        evaluate(config)
    suites, items = results_of(config.output)
    tasks = suites["long-context"]["tasks"]
    for name, characters in (("4k", 4_000), ("16k", 16_000), ("64k", 64_000)):
        task = tasks[f"long_context_{name}"]
        assert (task["items"], task["score"]) == (20, 0.5)
        assert sum(characters < len(prompt) < characters + 200 for prompt in prompts) == 20
    assert len(items) == 60 and suites["long-context"]["reason"] is None


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("1 410", "1410", True),
        ("około 1,5 mln", "1.5", True),
        ("12 345,5", "12345.5", True),
        ("1411", "1410", False),
        ("bez liczby", "1410", False),
        ("Kopernik.", "Kopernik", True),
        ("", "Kopernik", False),
        ("Koper", "Kopernik", True),
        ("Kope", "Kopernik", False),
        ("1410", "w 1410 roku", True),
        ("1401", "w 1410 roku", False),
        ("3 sierpnia", "3 maja", False),
        ("1 września 1945", "1 września 1939", False),
        ("1 wrzesnia 1939", "1 września 1939", True),
        ("747 osób", "Boeing 747", False),
        ("Boeing 737", "Boeing 747", False),
    ],
)
def test_accepted_answers(answer, gold, right):
    assert is_right(answer, gold) is right
