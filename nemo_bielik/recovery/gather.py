"""The stages of a comparison, opened and named, and everything there is to say about them."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.manifest import MANIFEST_NAME, Manifest
from nemo_bielik.recovery.aggregation import SUITE, Recoveries, Rules, recoveries
from nemo_bielik.recovery.evaluations import RUN, Evaluation, read_evaluation
from nemo_bielik.recovery.pairing import Gap, Stage, pair
from nemo_bielik.recovery.rows import Row, table
from nemo_bielik.recovery.words import drawn_text
from nemo_bielik.runs import ALIGNED, DISTILLED, FINE_TUNED, PRUNED, REWARDED, TEACHER

#: What a model is called after the stage that made it; others by their directory's name.
_MADE_BY = {
    "prune": PRUNED,
    "distill": DISTILLED,
    "sft": FINE_TUNED,
    "dpo": ALIGNED,
    "grpo": REWARDED,
}
_SEED = re.compile(r"-seed\d+$")


def open_stages(
    teacher: Path, students: Sequence[Path], labels: Sequence[str]
) -> tuple[Stage, list[Stage]]:
    """Return the teacher and the students; evaluations of one label are repeats of one stage.

    Without `labels`, a student is named after the stage that made its model, or its directory;
    directories that differ in ``-seedN`` alone are repeats. Raises `DataError` for a directory
    that is no evaluation or damaged, `ConfigError` for labels that do not fit.
    """
    opened = [read_evaluation(path) for path in students]
    names = list(labels) or _own_labels(opened)
    if len(names) != len(opened):
        raise ConfigError(f"{len(names)} labels for {len(opened)} students; give one for each")
    if TEACHER in names:
        raise ConfigError(f"a student is labelled {TEACHER!r}; give labels that tell them apart")
    stages = [
        Stage(name, tuple(one for one, own in zip(opened, names, strict=True) if own == name))
        for name in dict.fromkeys(names)
    ]
    return Stage(TEACHER, (read_evaluation(teacher),)), stages


def _label(evaluation: Evaluation) -> str:
    model = Path(evaluation.model)
    if evaluation.model and (model / MANIFEST_NAME).is_file():
        stage = Manifest.load(model).stage
        if stage in _MADE_BY:
            return _MADE_BY[stage]
    return _SEED.sub("", evaluation.path.resolve().name)


def _own_labels(opened: Sequence[Evaluation]) -> list[str]:
    """Return the label of each student; two stages of one name are not taken for repeats."""
    names = [_label(one) for one in opened]
    stems: dict[str, Path] = {}
    for name, one in zip(names, opened, strict=True):
        place = one.path.resolve()
        stem = place.with_name(_SEED.sub("", place.name))
        if stems.setdefault(name, stem) != stem:
            raise ConfigError(
                f"two students are called {name!r} ({stems[name]}, {stem}); give labels, one for "
                "each student, the same for repeats of one stage"
            )
    return names


def measured_baselines(paths: Sequence[Path]) -> dict[tuple[str, str], float]:
    """Return the best score of the baselines' evaluations for every (suite, task)."""
    best: dict[tuple[str, str], float] = {}
    for path in paths:
        for suite in read_evaluation(path).suites.values():
            for task in suite.tasks.values():
                key = (suite.name, task.name)
                best[key] = max(task.score, best.get(key, task.score))
    return best


def compare_stages(
    teacher: Stage, students: Sequence[Stage], rules: Rules
) -> tuple[list[Recoveries], list[Gap]]:
    """Return every student's recoveries, and what has no figure; raise if nothing has one."""
    found: list[Recoveries] = []
    gaps: list[Gap] = []
    for student in students:
        pairs, own = pair(teacher, student)
        gaps += [gap for gap in own if gap not in gaps]
        found.append(recoveries(pairs, student.label, rules))
    if not any(one.found for one in found):
        refused = [gap for gap in gaps if gap.refused] or gaps
        why = f" ({refused[0]})" if refused else "; they ran no suites"
        raise DataError(f"nothing of the students can be held against the teacher{why}")
    return found, gaps


def collect(
    teacher: Stage, students: Sequence[Stage], rules: Rules, above_baseline: bool, main: str
) -> dict[str, Any]:
    """Return the content of ``results.json``; `main` is the student that the page leads with."""
    found, gaps = compare_stages(teacher, students, rules)
    suites = _suites([teacher, *students], rules)
    rows = table(found, rules)
    _mark_parts(rows, _task_counts(suites, gaps))
    for row in rows:  # so that no figure of a limited run stands anywhere without saying so
        names = [row["suite"]] if row["suite"] else row.get("suites", list(suites))
        row["limited"] = [name for name in names if suites[name]["limit"]]
        drawn = {task.get("drawn") for name in names for task in suites[name]["tasks"].values()}
        notes = [drawn_text(one) for one in sorted(filter(None, drawn)) if row["suite"]]
        row["note"] = "; ".join(filter(None, (row["note"], *notes)))
    return {
        "kind": "recovery",
        "main": main,
        "ratio": "above the baseline" if above_baseline else "plain",
        "bootstrap": {
            "method": "paired over items, percentile",
            "resamples": rules.bootstrap.resamples,
            "confidence": rules.bootstrap.confidence,
            "seed": rules.bootstrap.seed,
        },
        "baselines": "measured" if rules.baselines else "guessing",
        "teacher": describe_stage(teacher, teacher),
        "students": [describe_stage(student, teacher) for student in students],
        "suites": suites,
        "rows": rows,
        "not_run": [gap.plain() for gap in gaps if not gap.refused],
        "refused": [gap.plain() for gap in gaps if gap.refused],
    }


def _task_counts(suites: Mapping[str, Any], gaps: Sequence[Gap]) -> dict[str, int]:
    """Return of how many tasks each suite's own figure is made where all of them ran."""
    known = {(name, task) for name, suite in suites.items() for task in suite["tasks"]}
    known |= {(gap.suite, gap.task) for gap in gaps if gap.task}
    return Counter(
        name
        for name, task in known
        if suites.get(name, {}).get("tasks", {}).get(task, {}).get("in_suite", True)
    )


def _mark_parts(rows: Sequence[Row], counts: Mapping[str, int]) -> None:
    """Note on every suite's figure, and on means of suites, of which tasks it is not made."""
    parts = {
        (row["student"], row["suite"]): f"{row['tasks']} of {counts[row['suite']]} tasks"
        for row in rows
        if row["level"] == SUITE and row["tasks"] < counts[row["suite"]]
    }
    for row in rows:
        names = [row["suite"]] if row["level"] == SUITE else row.get("suites", [])
        found = {name: parts.get((row["student"], name)) for name in names}
        notes = [
            text if row["suite"] else f"{name}: {text}" for name, text in found.items() if text
        ]
        row["note"] = "; ".join(filter(None, (row["note"], *notes)))


def describe_stage(stage: Stage, teacher: Stage) -> dict[str, Any]:
    """Return whose scores a stage's are: models by path and hash, and their perplexity.

    Perplexity is given only where the texts and the tokenizer are the teacher's.
    """
    first = stage.evaluations[0]
    texts = teacher.evaluations[0].text_hashes()
    same = all(one.text_hashes() == texts for one in stage.evaluations)
    values = [one.results.get("perplexity") for one in stage.evaluations]
    known = [float(value) for value in values if isinstance(value, int | float)]
    return {
        "label": stage.label,
        "against": None if stage is teacher else teacher.label,
        "model": first.model,
        "made_by": _made_by(first),
        "models": [one.model for one in stage.evaluations],
        "fingerprints": [one.fingerprint for one in stage.evaluations],
        "evaluations": [str(one.path) for one in stage.evaluations],
        "external_models": _external_models(stage),
        "perplexity": sum(known) / len(known) if same and len(known) == len(values) else None,
    }


def _external_models(stage: Stage) -> dict[str, list[str]]:
    """Return what each suite's own package calls the model: its hash was not checked."""
    found: dict[str, list[str]] = {}
    for evaluation in stage.evaluations:
        for suite in evaluation.suites.values():
            if suite.model and suite.model not in found.setdefault(suite.name, []):
                found[suite.name].append(suite.model)
    return found


def _made_by(evaluation: Evaluation) -> str:
    model = Path(evaluation.model)
    has_one = bool(evaluation.model) and (model / MANIFEST_NAME).is_file()
    return Manifest.load(model).stage if has_one else ""


def _suites(stages: Sequence[Stage], rules: Rules) -> dict[str, Any]:
    """Return what each suite is, from the first stage that ran it."""
    found: dict[str, Any] = {}
    for stage in stages:
        for evaluation in stage.evaluations:
            for name, suite in evaluation.suites.items():
                if suite.status == RUN and name not in found:
                    found[name] = {
                        "version": suite.version,
                        "limit": suite.limit,
                        "aggregation": rules.aggregation(name),
                        "tasks": {
                            task.name: {"metric": task.metric, "items": len(task.items)}
                            | {"language": task.language, "category": task.category}
                            | {"in_suite": task.in_suite}
                            | dict(task.about)
                            for task in suite.tasks.values()
                        },
                    }
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]
