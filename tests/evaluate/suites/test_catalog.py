"""The table is complete: every row has its task, every task file its row, and all names are one."""

import json
from collections import Counter

import pytest
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from nemo_bielik import cli
from nemo_bielik.errors import ConfigError
from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.evaluate.suites.catalog import SUITES, find_suites
from nemo_bielik.evaluate.suites.suite import LM_EVAL, OWN_TASKS

TASKS = [task for suite in SUITES for task in suite.tasks]


def test_every_row_names_a_task_with_that_split_and_dataset():
    manager = TaskManager(
        include_path=sorted({task.folder for task in TASKS}), include_defaults=False
    )
    for task in TASKS:
        entry = manager.task_index[task.harness]
        if task.is_group:
            continue
        found = {**load_yaml(entry.yaml_path, resolve_func=False), **task.changes}
        if task.needs_data:
            assert found["dataset_path"] == task.dataset, task.name
            assert found.get("dataset_name") in (task.config, None, ""), task.name
        assert found.get("test_split") or found["validation_split"] == task.split, task.name
        assert (found["output_type"] == "multiple_choice") == (task.kind == "choice"), task.name
        names = [row["metric"] for row in found["metric_list"]]
        assert task.score_from in names, task.name
        filters = [row["name"] for row in found.get("filter_list", [])] or ["none"]
        assert task.score_filter in filters, task.name


def test_every_task_file_of_ours_has_a_row():
    used = {task.definition for task in TASKS if not task.definition.startswith(LM_EVAL)}
    assert used == {path.name for path in OWN_TASKS.glob("*.yaml")}


def test_names_are_unique_and_counts_are_the_report_s():
    assert max(Counter(suite.name for suite in SUITES).values()) == 1
    assert max(Counter((task.name, task.dataset) for task in TASKS).values()) == 1
    counts = {suite.name: len(suite.tasks) for suite in SUITES}
    assert (counts["belebele"], counts["include-base-44"], counts["flores"]) == (28, 20, 40)
    assert counts["open-pl"] == 22
    assert all(bool(suite.tasks) != bool(suite.instead) for suite in SUITES)
    assert all(task.schema for task in TASKS)


def test_the_list_says_what_is_needed_and_where(put_data, tmp_path, capsys):
    put_data(tmp_path, "nemo-bielik/minimal-pairs", test=[{"good": "a", "bad": "b"}])
    assert cli.main(["suites", "--data-dir", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["suites"]
    assert list(found) == [suite.name for suite in SUITES]
    assert found["minimal-pairs"]["data"]["nemo-bielik/minimal-pairs"].startswith("is in")
    assert (
        "missing: needs amu-cai/PES-2018-2022" in found["medical"]["data"]["amu-cai/PES-2018-2022"]
    )
    assert found["flores"]["tasks"]["flores_pl_uk"]["split"] == "devtest"
    assert found["bfcl"]["instead"]
    assert cli.main(["suites"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("put it in DATA_DIR/facebook/flores" in line for line in lines)


def test_unknown_suites_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"'belebel' is not a suite \(did you mean 'belebele'"):
        find_suites(["belebel"])
    with pytest.raises(ConfigError, match="nothing to evaluate: give suites"):
        EvaluateConfig(model=tmp_path, output=tmp_path)
    assert find_suites(["all"]) == list(SUITES)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "give a model directory or an endpoint"),
        ({"endpoint": "host:80"}, "must be http://HOST:PORT/v1"),
        ({"endpoint": "http://host/v1"}, "endpoint_model is not given"),
        (
            {"endpoint": "http://host/v1", "endpoint_model": "m", "facts": "f.jsonl"},
            "need the model itself",
        ),
        ({"model": ".", "limit": 0}, "limit is 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, complaint, tmp_path):
    with pytest.raises(ConfigError, match=complaint):
        EvaluateConfig(output=tmp_path, suites=["belebele"], **settings)
