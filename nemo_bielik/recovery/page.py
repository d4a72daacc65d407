"""The recovery page: every figure of ``results.json`` as tables and drawings, in one HTML file."""

from typing import Any

from nemo_bielik.recovery import panels, tables
from nemo_bielik.recovery.aggregation import OVERALL
from nemo_bielik.recovery.beside import beside_report
from nemo_bielik.recovery.quantized import quantized_section
from nemo_bielik.recovery.speed import speed_figure, speed_section
from nemo_bielik.recovery.words import absences, interval_text, overall_remark, ratio_text, share
from nemo_bielik.report.figures import Figure
from nemo_bielik.report.html import render_page
from nemo_bielik.report.wording import NONE, listed, percent

_MEASURES = (
    (
        "Plain ratio",
        "100 · student’s score / teacher’s score, as the Bielik-Minitron report has it. A student "
        "that guesses keeps more than nothing: a quarter of the answers of a four-way choice.",
    ),
    (
        "Above the baseline",
        "100 · (student − baseline) / (teacher − baseline): 0 % is no better than the baseline, "
        "100 % as good as the teacher.",
    ),
    (
        "Interval",
        "paired bootstrap: items are drawn anew, the same for teacher and students, metrics "
        "(BLEU, MCC and F1 too) are computed again, and the interval holds the middle of what "
        "comes out. It covers the choice of items, not prompts, seeds of training or items that "
        "depend on each other. Of a suite that keeps no items it is over its "
        "iterations, and says so.",
    ),
    (
        "Suite",
        "the ratio of the mean scores of its tasks, or, where it says so, the mean of their "
        "ratios; all suites together: the mean of theirs.",
    ),
    (
        "Change",
        "points by which a recovery differs from that of the stage before, on the same draws of "
        "items; an interval that holds 0 leaves open which is better.",
    ),
)


def render(found: dict[str, Any]) -> str:
    """Return the page of `found`, the content of ``results.json``."""
    return render_page("recovery/template.html", _context(found))


def _context(found: dict[str, Any]) -> dict[str, Any]:
    limited = [name for name, suite in found["suites"].items() if suite["limit"]]
    return {
        "headline": _headline(found),
        "key_figures": student_figures(found) + speed_figure(found.get("speed")),
        "ratio": ratio_text(found["ratio"], found["baselines"]),
        "teacher": found["teacher"],
        "confidence": f"{100 * found['bootstrap']['confidence']:g} %",
        "resamples": f"{found['bootstrap']['resamples']:,}",
        "limited": listed(limited),
        "kinds": panels.kinds([student["label"] for student in found["students"]]),
        "models": tables.models(found),
        "stages": tables.stages(found),
        "suites": panels.suite_panel(found),
        "beside": beside_report(found),
        "parts": panels.part_panels(found),
        "tasks": tables.tasks(found),
        "speed": speed_section(found.get("speed")),
        "quantized": quantized_section(found.get("quantized")),
        "absent": absences(found),
        "paper_stages": tables.paper_table(14),
        "paper_recovery": tables.paper_table(4),
        "measures": _MEASURES,
    }


def _overall(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in found["rows"] if row["level"] == OVERALL]


def _headline(found: dict[str, Any]) -> str:
    main = found["main"]
    row = next((row for row in _overall(found) if row["student"] == main), None)
    value, ends = share(row, found["ratio"]) if row else (None, None)
    if value is None:
        return f"{main}: measured, but without a recovery over all suites"
    interval = f" ({interval_text(ends)})" if ends else ""
    return f"{main} keeps {percent(value)}{interval} of its teacher"


def student_figures(found: dict[str, Any]) -> list[Figure]:
    """Return what each student keeps over all suites."""
    figures = []
    for row in _overall(found):
        value = share(row, found["ratio"])[0]
        text = NONE if value is None else percent(value)
        remark = overall_remark(row, found)
        figures.append(Figure(f"key.{row['student']}", text, remark, row["student"]))
    return figures
