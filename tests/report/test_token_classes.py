"""The table of where the KL is, against the metrics of the synthetic run."""

import dataclasses

import pytest

from nemo_bielik.report.gather import read_run
from nemo_bielik.report.page import render
from nemo_bielik.report.token_classes import class_table
from nemo_bielik.runs import Run


@pytest.fixture(scope="module")
def data(finished_run):
    return read_run(finished_run)


def test_classes_are_those_of_the_first_and_the_last_validation(data):
    table = class_table(data)
    assert (table.first_step, table.last_step, table.seeds) == (50, 300, 3)
    figures = {cell.name: cell.text for cells, _ in table.rows for cell in cells}
    validations = [
        [line["validation_loss"] for line in model.metrics if "validation_loss" in line]
        for model in data.of_kind("distilled")
    ]
    for name, values in (("first", 0), ("last", -1)):
        mean = sum(losses[values] for losses in validations) / 3
        assert figures[f"class.all.{name}_kl"] == f"{mean:.4f}"
    assert figures["class.another top token.share"] == "20.0\N{NO-BREAK SPACE}%"
    assert figures["class.another top token.agreement"] == "0.0\N{NO-BREAK SPACE}%"
    assert figures["class.another top token.left"] == "70.0\N{NO-BREAK SPACE}%"


def test_shares_of_what_is_left_add_up(data):
    left = {cells[0].name.removeprefix("class."): share for cells, share in class_table(data).rows}
    assert left["all"] == 100
    assert left["same top token"] + left["another top token"] == pytest.approx(100, abs=0.1)
    bins = [share for name, share in left.items() if name.startswith("entropy")]
    assert sum(bins) == pytest.approx(100, abs=0.2)


def test_a_class_that_some_seeds_lack(data):
    """Its KL is the mean of the others, its share counts nothing for them: 10 and 50 % of one."""
    (first,) = (model for model in data.of_kind("distilled") if model.seed == 1)
    loss = [line for line in first.metrics if "validation_loss" in line][-1]["validation_loss"]
    figures = {cell.name: cell.text for cells, _ in class_table(data).rows for cell in cells}
    assert figures["class.entropy from 3.0.last_kl"] == f"{5 * loss:.4f}"
    assert figures["class.entropy from 3.0.share"] == "3.3\N{NO-BREAK SPACE}%"
    assert figures["class.entropy from 3.0.left"] == "16.7\N{NO-BREAK SPACE}%"


def test_runs_without_a_split_have_no_table(data):
    plain = [dataclasses.replace(model, metrics=[]) for model in data.models]
    assert class_table(dataclasses.replace(data, models=tuple(plain))) is None


def test_the_page_shows_it_where_there_is_one(data, new_run):
    heading = "Where the distilled model’s KL is"
    assert heading in render(data)
    for seed in (1, 2, 3):
        (Run(new_run).model(f"distilled-seed{seed}") / "training" / "metrics.jsonl").unlink()
    assert heading not in render(read_run(new_run))
