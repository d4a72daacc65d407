"""The classifications of Open PL in writing: every class is read, in a sentence, in any case."""

import re

import pytest
import yaml
from polish_choices import POLISH

from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.evaluate.stage import evaluate
from nemo_bielik.evaluate.suites.open_pl import OPEN_PL_TASKS
from nemo_bielik.evaluate.suites.suite import OWN_TASKS

WRITTEN = {task.name: task for task in OPEN_PL_TASKS if task.name.endswith("_written")}
CASES = {case.task: case for case in POLISH if f"{case.task}_written" in WRITTEN}


def test_every_written_classification_has_a_case():
    assert {f"{name}_written" for name in CASES} == set(WRITTEN) and len(WRITTEN) == 9


@pytest.mark.parametrize("name", CASES)
def test_every_class_is_read_out_of_a_sentence(name):
    definition = OWN_TASKS / WRITTEN[f"{name}_written"].definition
    (filters,) = yaml.safe_load(definition.read_text(encoding="utf-8"))["filter_list"]
    pattern = re.compile(filters["filter"][0]["regex_pattern"])
    assert filters["name"] == "first-word"
    for choice in CASES[name].choices:
        assert pattern.findall(f" To chyba: {choice}, raczej.")[0] == choice
        assert pattern.findall(f"\n{choice.upper()}\n")[0] == choice.upper()
        assert not pattern.findall(f" prze{choice}x")


@pytest.fixture(scope="module")
def evaluated(put_data, results_of, serving, tmp_path_factory):
    """A run in which the first item of every task is answered right and no other at all."""
    folder = tmp_path_factory.mktemp("written-classes")
    right = {}
    for case in CASES.values():
        put_data(folder / "data", case.dataset, case.config, **case.splits)
        right[case.prompts[0]] = case.choices[case.right[0]]

    def answer(request):
        known = [text for end, text in right.items() if request["prompt"].endswith(end)]
        return {"choices": [{"index": 0, "text": f" {known[0].title()}." if known else " ?"}]}

    with serving(answer) as url:
        evaluate(
            EvaluateConfig(
                endpoint=url,
                endpoint_model="m",
                output=folder / "out",
                suites=["open-pl"],
                data_dir=folder / "data",
            )
        )
    return results_of(folder / "out")


@pytest.mark.parametrize("name", CASES)
def test_the_right_word_scores_and_no_word_does_not(name, evaluated):
    suites, items = evaluated
    case, task = CASES[name], f"{name}_written"
    found = [item for item in items if item["task"] == task]
    assert len(found) == suites["open-pl"]["tasks"][task]["items"] >= len(case.right)
    wanted = [prompt == case.prompts[0] for prompt in case.prompts]
    if WRITTEN[task].metric == "macro_f1":
        got = [item["prediction"] == item["reference"] for item in found]
    else:
        got = [item["score"] == 1.0 for item in found]
    assert got[: len(wanted)] == wanted and any(got)
