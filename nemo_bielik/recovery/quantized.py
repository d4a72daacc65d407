"""What `bielik quantize` made of the student, as a recovery page and a model card show it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemo_bielik.artifact_files import explain_fields
from nemo_bielik.errors import DataError
from nemo_bielik.paper.tables import table
from nemo_bielik.quantize.stage import TABLE_NAME
from nemo_bielik.quantize.table import notes
from nemo_bielik.recovery.pairing import Stage
from nemo_bielik.report.figures import Figure
from nemo_bielik.report.gather import read_object
from nemo_bielik.report.wording import NONE, listed, number, percent, size_bytes

_REPORT_TABLE = 13
_UNQUANTISED = "Bielik-Minitron-7B-v3.0-Instruct"


def read_quantized(directory: Path, student: Stage) -> dict[str, Any]:
    """Return the table of `directory`, each format beside the report's change of the same name.

    Raises `DataError` for a directory without a table, and for the formats of another model;
    ``checked`` is whether the evaluation has a hash to compare.
    """
    path = directory / TABLE_NAME
    if not path.is_file():
        raise DataError(f"{directory}: holds no {TABLE_NAME}; make one with `bielik quantize`")
    found = read_object(path)
    with explain_fields("table of formats", path):
        made, name = found["model"]["fingerprint"], found["model"]["name"]
        evaluated = {one.fingerprint for one in student.evaluations} - {""}
        if evaluated and made not in evaluated:
            raise DataError(
                f"quantized: the formats in {directory} were made from {name} (hash {made[:12]}), "
                f"not from the model that was evaluated as {student.label} "
                f"({min(evaluated)[:12]}); quantise that one, or name its student in main"
            )
        changes = report_changes()
        for row in found["formats"]:
            row["report_percent"] = changes.get(row["format"].upper())
        return {"checked": bool(evaluated), **found}


def report_changes() -> dict[str, float]:
    """Return by how many per cent each format changes the score in the report's Table 13."""
    scores = {row[0]: row[-1] for row in table(_REPORT_TABLE)["rows"]}
    whole = scores.pop(_UNQUANTISED)
    return {
        name.removeprefix(_UNQUANTISED).removesuffix(".gguf").strip(" ."): 100 * (score / whole - 1)
        for name, score in scores.items()
        if name.startswith(_UNQUANTISED)
    }


def quantized_section(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the section of a table (`read_quantized`): columns and rows; None without one."""
    if found is None:
        return None
    rows = found["formats"]
    columns = [one for one in _MEASURED if any(one[0] in row for row in rows)]
    titles = ["size", "bits a weight", "in named type", f"cards at {found['context']:,} tokens"]
    unquantised = [
        (f"unquantised, {engine}", [*[Figure("", NONE)] * 4, *_measured(own, columns, "")])
        for engine, own in found["unquantised"].items()
    ]
    made = [
        (row["format"], [*_stored(row), *_measured(row, columns, row["format"])]) for row in rows
    ]
    changes = [NONE] * len(unquantised) + [_signed(row["report_percent"]) for row in rows]
    return {
        "model": found["model"]["name"],
        "unchecked": "" if found["checked"] else "Not checked to be the evaluated model (no hash).",
        "columns": [*titles, *(title for _, title, _ in columns), "the report’s"],
        "rows": [
            {"name": name, "cells": [*cells, Figure("", change)]}
            for (name, cells), change in zip([*unquantised, *made], changes, strict=True)
        ],
        "notes": [note for row in rows for note in notes(row)],
        "simulated": listed([row["format"] for row in rows if "simulated" in row["engine"]]),
    }


def _stored(row: dict[str, Any]) -> list[Figure]:
    """Return what a format is: size, bits, share in the type it is named after, cards."""
    name = f"quantized.{row['format']}"
    cards = f"{len(row['fits'])} of {len(row['longest_context'])}"
    return [
        Figure(f"{name}.bytes", size_bytes(row["bytes"])),
        Figure(f"{name}.bits", f"{row['bits_per_weight']:.2f}"),
        Figure("", percent(100 * row["named_share"]), row["named_type"]),
        Figure("", cards),
    ]


def _measured(
    row: dict[str, Any], columns: list[tuple[str, str, Callable[[float], str]]], name: str
) -> list[Figure]:
    """Return what was measured of a format, column by column."""
    return [
        Figure(f"quantized.{name}.{key}" if name else "", say(row[key]) if key in row else NONE)
        for key, _, say in columns
    ]


def _share(value: float) -> str:
    return percent(100 * value)


def _signed(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{'+' if value > 0 else ''}{percent(value, 2)}"


#: What may have been measured: its key, its title, and how it is said.
_MEASURED: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("perplexity", "perplexity", lambda value: number(value, 3)),
    ("loss_percent", "rise of it", _signed),
    ("kl", "KL, nats", lambda value: number(value, 5)),
    ("top1_agreement", "same likeliest token", _share),
    ("minimal_pairs_accuracy", "minimal pairs", _share),
    ("fact_accuracy", "facts", _share),
    ("tokens_per_second", "tokens/s", number),
    ("memory_bytes", "memory", size_bytes),
)
