"""The model card, a Hugging Face ``README.md``, from manifests and results and nothing else."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from nemo_bielik import __version__
from nemo_bielik.arch import ModelArch
from nemo_bielik.planner.parameters import count_one_embedding, count_parameters
from nemo_bielik.recovery.aggregation import LANGUAGE, OVERALL, SUITE, TASK
from nemo_bielik.recovery.card_model import CardModel
from nemo_bielik.recovery.quantized import quantized_section
from nemo_bielik.recovery.rows import Row
from nemo_bielik.recovery.speed import speed_section
from nemo_bielik.recovery.words import (
    NOT_COUNTED,
    absences,
    drawn_text,
    external_text,
    interval_text,
    limit_text,
    limited_suites,
    ratio_text,
    score_text,
    share,
)
from nemo_bielik.report import wording

_SIZES = (
    ("layers", "num_layers"),
    ("hidden channels", "hidden_size"),
    ("ffn channels", "ffn_hidden_size"),
    ("attention heads", "num_attention_heads"),
    ("query groups", "num_query_groups"),
    ("vocabulary", "vocab_size"),
    ("positions", "max_position_embeddings"),
)
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#])")


@dataclass(frozen=True, kw_only=True)
class Told:
    """What only people know of a model; what is empty is left out of the card's metadata.

    `languages` are the model's: that a test asked it in one says nothing about that.
    """

    name: str = ""
    license: str = ""
    base_model: str = ""
    languages: Sequence[str] = ()


def render_card(found: dict[str, Any], label: str, model: CardModel, told: Told) -> str:
    """Return the card of the student called `label`.

    `found` is the content of ``results.json``. What is not known is said to be unknown.
    """
    environment = Environment(
        autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"md": plain_markdown, "yaml": one_line_yaml}
    source = (files("nemo_bielik.recovery") / "card.md").read_text(encoding="utf-8")
    own = next(one for one in found["students"] if one["label"] == label)
    title = told.name or _title(own["model"]) or label
    rows = [row for row in found["rows"] if row["student"] == label]
    context = {
        "name": title,
        "label": label,
        "repeats": len(own["evaluations"]),
        "metadata": _metadata(found, rows, title, told),
        "model": model,
        "sizes": _sizes(model),
        "overall": next((_cells(row, found) for row in rows if row["level"] == OVERALL), None),
        "suites": [_cells(row, found) for row in rows if row["level"] == SUITE],
        "tasks": [_cells(row, found) for row in rows if row["level"] == TASK],
        "absent": absences(found, (label, found["teacher"]["label"])),
        "limits": _limits(found, rows),
        "speed": speed_section(found.get("speed")) if label == found["main"] else None,
        "quantized": quantized_section(found.get("quantized")) if label == found["main"] else None,
        "external": [
            (one["label"], text) for one in (found["teacher"], own) if (text := external_text(one))
        ],
        "found": found,
        "ratio": ratio_text(found["ratio"], found["baselines"]),
        "confidence": f"{100 * found['bootstrap']['confidence']:g} %",
        "teacher": found["teacher"],
        "version": __version__,
    }
    return environment.from_string(source).render(**context)


def plain_markdown(text: object) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def one_line_yaml(value: object) -> str:
    """Return a value as JSON, which YAML reads as the same value."""
    return json.dumps(value, ensure_ascii=False)


def _title(model: str) -> str:
    """Return what a model is called: its directory's last part, or its name on a server."""
    name, _, _ = model.partition(" at http")
    return name.rstrip("/").rpartition("/")[2]


def _metadata(found: dict[str, Any], rows: list[Row], title: str, told: Told) -> dict[str, Any]:
    """Return what the hub reads; what nobody told is left out."""
    known = {
        "language": list(told.languages),
        "license": told.license,
        "base_model": told.base_model,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["nemo-bielik"],
    }
    results = [_result(found, row) for row in rows if row["level"] == TASK]
    index = [{"name": title, "results": results}] if results else []
    return {key: value for key, value in (known | {"model-index": index}).items() if value}


def _result(found: dict[str, Any], row: Row) -> dict[str, Any]:
    suite = found["suites"][row["suite"]]
    task = suite["tasks"][row["name"]]
    name = f"{row['suite']}: {row['name']}"
    (student,) = (one for one in found["students"] if one["label"] == row["student"])
    repeats = len(student["evaluations"])
    marks = [limit_text(suite["limit"]), f"mean of {repeats} repeats" if repeats > 1 else ""]
    marked = f" ({'; '.join(filter(None, marks))})" if any(marks) else ""
    return {
        "task": {"type": "text-generation"},
        "dataset": {"name": name + marked, "type": str(task.get("dataset") or row["name"])}
        | ({"split": task["split"]} if task.get("split") else {}),
        "metrics": [
            {"type": row["metric"], "value": round(row["student_score"], 4), "name": row["metric"]}
        ],
    }


def _sizes(model: CardModel) -> list[tuple[str, str, str]]:
    if model.arch is None:
        return []
    own, other = _sizes_of(model.arch), _sizes_of(model.teacher)
    return [(label, text, other.get(label, wording.NONE)) for label, text in own.items()]


def _sizes_of(arch: ModelArch | None) -> dict[str, str]:
    if arch is None:
        return {}
    sizes = {label: getattr(arch, name) for label, name in _SIZES}
    sizes["parameters on disk"] = count_parameters(arch)
    sizes["parameters, one embedding"] = count_one_embedding(arch)
    return {label: f"{size:,}" for label, size in sizes.items()}


def _cells(row: Row, found: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the evaluation as texts."""
    suite = found["suites"].get(row["suite"]) or {}
    value, ends = share(row, found["ratio"])
    task = suite.get("tasks", {}).get(row["name"], {}) if row["level"] == TASK else {}
    shot = task.get("few_shot")
    return {
        "suite": row["suite"] or "",
        "name": row["name"],
        "metric": row.get("metric", ""),
        "count": f"{row['items']:,}" if "items" in row else "",
        "limit": limit_text(suite.get("limit")),
        "note": _joined("; ", row["note"], limited_suites(found, row.get("suites", []))),
        "teacher": score_text(row.get("teacher_score")),
        "student": score_text(row.get("student_score")),
        "recovery": wording.NONE if value is None else wording.percent(value),
        "interval": interval_text(ends),
        "dataset": _joined(", ", task.get("dataset"), task.get("split")),
        "few_shot": "" if shot is None else str(shot),
        "schema": _joined(
            "; ",
            task.get("schema"),
            "prompts cut" * bool(task.get("prompts_cut")),
            NOT_COUNTED * (not task.get("in_suite", True)),
            drawn_text(task.get("drawn")),
        ),
    }


def _joined(separator: str, *parts: object) -> str:
    return separator.join(str(part) for part in parts if part)


def _limits(found: dict[str, Any], rows: list[Row]) -> list[str]:
    """Return what the figures do not say, as far as it follows from them."""
    confidence = f"{100 * found['bootstrap']['confidence']:g} %"
    told = [
        f"Intervals ({confidence}) cover the choice of items only: not another prompt, another "
        "training seed, or items that depend on each other.",
        "The benchmarks above say nothing about languages, tasks and lengths that they do not "
        "hold. Safety was not evaluated.",
    ]
    limited = [name for name, suite in found["suites"].items() if suite["limit"]]
    if limited:
        told.append(f"Limited runs, not to be set beside full ones: {wording.listed(limited)}.")
    weak = [
        (value, row)
        for row in rows
        if row["level"] in (SUITE, LANGUAGE)
        and (value := share(row, found["ratio"])[0]) is not None
    ]
    if weak:
        value, row = min(weak, key=lambda one: one[0])
        inside = "" if row["level"] == SUITE else f" in {row['suite'] or 'all suites'}"
        told.append(
            f"The least is kept in {row['name']}{inside}: {wording.percent(value)} of the teacher."
        )
    return told
