"""The stage: whole, partial and missing runs; what it writes and what it imports."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.cli import main
from nemo_bielik.errors import DataError
from nemo_bielik.report.stage import ReportConfig, write_report
from nemo_bielik.runs import Run


def page_of(run: Path) -> str:
    write_report(ReportConfig(run=run))
    return (run / "report.html").read_text(encoding="utf-8")


def test_the_page_is_replaced_whole(new_run: Path) -> None:
    (new_run / "report.html").write_text("old")
    assert page_of(new_run).startswith("<!doctype html>")
    assert list(new_run.glob(".*")) == []


def test_the_command_writes_where_it_is_told(finished_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "pages" / "run.html"
    assert main(["report", "--run", str(finished_run), "--output", str(output)]) == 0
    assert output.read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_reporting_loads_nothing_heavy(finished_run: Path, tmp_path: Path) -> None:
    command = ["report", "--run", str(finished_run), "--output", str(tmp_path / "page.html")]
    code = (
        f"import sys\nfrom nemo_bielik.cli import main\nassert main({command!r}) == 0\n"
        "heavy = {'torch', 'transformers', 'megatron', 'nemo', 'nemo_run'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_perplexity_alone(new_run: Path, store_json: Callable[[Path, Any], None]) -> None:
    """A user's own checkpoint and text: no summary, controls, minimal pairs or facts."""
    run = Run(new_run)
    run.summary.unlink()
    for path in [*run.model("x").parent.iterdir(), *run.evaluation("x").parent.iterdir()]:
        if path.name not in ("teacher", "pruned", "distilled-seed1"):
            shutil.rmtree(path)
    for name, perplexity in (("teacher", 4.0), ("pruned", 64.0), ("distilled-seed1", 8.0)):
        store_json(run.evaluation(name) / "results.json", {"perplexity": perplexity})
    page = page_of(new_run)
    assert "took back 75.0\N{NO-BREAK SPACE}% of the loss" in page  # ln 64/8 = ¾ of ln 64/4
    assert "control" not in page.split("<main>")[1].split("</main>")[0].lower()
    assert "by phenomenon" not in page
    assert "Targets" not in page


def test_no_controls_is_said(new_run: Path) -> None:
    run = Run(new_run)
    summary = json.loads(run.summary.read_text())
    for kind in ("label_trained", "from_scratch"):
        del summary[kind]
        for seed in (1, 2, 3):
            shutil.rmtree(run.model(f"{kind}-seed{seed}"))
            shutil.rmtree(run.evaluation(f"{kind}-seed{seed}"))
    run.summary.write_text(json.dumps(summary))
    assert "no control was run" in page_of(new_run)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("scores", "Scoring was not run"),
        ("models", "No training was run"),
        ("evaluations", "the pruned model kept"),  # the summary still knows
        ("summary.json", "Guessing gives"),
    ],
)
def test_a_part_that_is_missing_is_left_out(new_run: Path, gone: str, said: str) -> None:
    path = new_run / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert said in page_of(new_run)


def test_only_a_summary(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"wall_seconds": 3.0}')
    page = page_of(tmp_path)
    assert "An unfinished run" in page
    assert page.count("not run") >= 3


@pytest.mark.parametrize("exists", [True, False])
def test_no_run_is_one_line(tmp_path: Path, exists: bool, capsys: Any) -> None:
    directory = tmp_path if exists else tmp_path / "nothing"
    assert main(["report", "--run", str(directory)]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {directory}: ")
    assert line.count("\n") == 1
    assert "bielik demo" in line
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_artifact_is_named(new_run: Path) -> None:
    path = Run(new_run).evaluation("pruned") / "results.json"
    path.write_text('{"perplexity": ')
    with pytest.raises(DataError, match=r"pruned/results\.json: is not JSON"):
        write_report(ReportConfig(run=new_run))
    assert not (new_run / "report.html").exists()


def test_a_metrics_line_torn_by_a_kill_ends_the_curve(new_run: Path) -> None:
    path = Run(new_run).model("teacher") / "training" / "metrics.jsonl"
    path.write_text(path.read_text()[:-40])
    assert "Teacher: next-token loss" in page_of(new_run)
