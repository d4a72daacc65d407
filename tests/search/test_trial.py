"""What a trial's own files say of it, up to any step."""

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.arch import preset
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.search.candidates import Candidate
from nemo_bielik.search.trial import Trial, curves
from nemo_bielik.stages import work_directory
from nemo_bielik.training import StabilityConfig


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    config = DistillConfig(
        model=tmp_path / "pruned",
        teacher=tmp_path / "teacher",
        train_data=[tmp_path / "tokens"],
        validation_data=tmp_path / "held-out",
        output=tmp_path / "trial",
        iters=20,
        eval_interval=5,
        save_interval=5,
    )
    return Trial(Candidate("one", preset("tiny-exp-010")), 1, config)


def write(place: Path, steps: int, validations: list[int], **incident: Any) -> None:
    place.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = [
        {"step": step, "validation_loss": 5.0 - step} for step in validations
    ]
    lines += [
        {"step": n, "tokens": 100 * n, "loss": 1 / n, "grad_norm": 2.0 * n, "seconds": n / 2}
        for n in range(1, steps + 1)
    ]
    text = "".join(json.dumps(line) + "\n" for line in sorted(lines, key=lambda line: line["step"]))
    (place / "metrics.jsonl").write_text(text + '{"torn')
    if incident:
        (place / "incidents.jsonl").write_text(json.dumps(incident) + "\n")


def test_nothing_is_there_before_it_begins(trial):
    record = trial.record()
    assert record.steps == [] and not record.has_reached(0)
    assert curves(record, 10) == {"validation": [], "training": []}


def test_steps_beyond_a_rung_are_not_looked_at(trial):
    write(work_directory(trial.config.output), 12, [0, 5, 10])
    record = trial.record()
    assert record.has_reached(0) and record.has_reached(10) and not record.has_reached(20)
    assert record.losses(2, 4) == [(300, 1 / 3), (400, 1 / 4)]
    assert record.grad_norms(2, 4) == [6.0, 8.0]
    assert (record.kl(5), record.last_step(5), record.seconds_at(5)) == (0.0, 5, 2.5)
    assert curves(record, 5)["validation"] == [[0.0, 5.0], [500.0, 0.0]]


def test_a_finished_trial_is_read_from_its_output(trial):
    write(trial.config.output / "training", 20, [0, 5, 10, 15, 20])
    assert trial.record().kl(20) == -15.0


def test_what_the_engine_stopped_counts_from_its_step_on(trial):
    write(work_directory(trial.config.output), 6, [0, 5], step=7, reason="the loss is nan")
    record = trial.record()
    assert record.has_reached(10)  # nothing more will come
    assert record.incident_by(10) == "step 7: the loss is nan"
    assert record.incident_by(5) == ""
    assert record.kl(10) == float("inf")


def test_a_step_that_was_only_skipped_ends_nothing(trial):
    trial.config.stability = StabilityConfig(policy="skip")
    write(work_directory(trial.config.output), 6, [0, 5], step=3, reason="the loss is nan")
    assert trial.record().incident_by(10) == ""


def test_parts_are_of_the_whole_run(trial):
    assert trial.part(10).stop_after == 10
    assert trial.part(10).iters == 20
    assert trial.part(20) == trial.config
