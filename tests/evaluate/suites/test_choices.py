"""Choices of every suite against transformers, run by hand on prompts written by hand.

Rows are in each dataset's own columns. All few-shot rows of a case have the same text, so the
prompt does not depend on which are drawn.
"""

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from english_choices import ENGLISH
from polish_choices import POLISH
from sklearn.metrics import f1_score
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.evaluate.stage import evaluate

CHOICE_CASES = (*ENGLISH, *POLISH)


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
    f1 = f1_score(gold, given, labels=sorted(set(gold)), average="macro", zero_division=0.0)
    assert task["score"] == pytest.approx(f1 if task["metric"] == "macro_f1" else share)


def test_a_question_of_many_languages_is_named_by_its_passage(evaluated):
    _, items = evaluated
    for task in ("belebele_pol_Latn", "belebele_pl"):
        named = [item["question"] for item in items if item["task"] == task]
        assert named == [f"https://example.org/{number} {number}" for number in range(3)]


def test_a_question_is_made_into_tokens_once(suite_model, put_data, tmp_path, monkeypatch):
    """lm-eval asks the prompt's tokens for each of its choices."""
    case = next(case for case in CHOICE_CASES if case.task == "belebele_pol_Latn")
    rows = [{**row, "question": f"Kto {n}?"} for n, row in enumerate(case.splits["test"])]
    put_data(tmp_path / "data", case.dataset, case.config, test=rows)
    asked = []
    encode = PreTrainedTokenizerBase.encode
    monkeypatch.setattr(
        PreTrainedTokenizerBase,
        "encode",
        lambda self, text, **named: asked.append(text) or encode(self, text, **named),
    )
    evaluate(
        EvaluateConfig(
            model=suite_model,
            output=tmp_path / "out",
            suites=["belebele"],
            data_dir=tmp_path / "data",
        )
    )
    assert len(asked) == len(rows) * (1 + len(case.choices)) == len(set(asked))


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
