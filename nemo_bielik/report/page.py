"""The page: every section's figures as text and drawings, set into the template."""

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from nemo_bielik.artifacts import PruningPlan
from nemo_bielik.report import (
    costs,
    curves,
    dots,
    figures,
    importance,
    stack,
    story,
    svg,
    tables,
    token_classes,
)
from nemo_bielik.report.definitions import DEFINITIONS
from nemo_bielik.report.gather import KINDS, WAYS_BACK, ModelRun, RunData
from nemo_bielik.report.html import render_page
from nemo_bielik.report.measures import (
    BASELINE,
    GRAMMAR,
    KNOWLEDGE,
    Scores,
    group_scores,
    read_scores,
)
from nemo_bielik.report.wording import NAMES, count, percent
from nemo_bielik.runs import DISTILLED, LABEL_TRAINED, TEACHER

_PANEL, _THIRD = 466.0, 336.0
_SUMMARY = 540.0


@dataclass(frozen=True)
class Panel:
    """A drawing with its heading, the marks it uses and a remark."""

    heading: str
    drawing: Markup
    kinds: tuple[str, ...] = ()
    remark: str = ""

    @property
    def keys(self) -> Markup:
        """The legend under the heading."""
        return _legend(self.kinds) if self.kinds else Markup()


def render(data: RunData) -> str:
    """Return the whole page."""
    scores = read_scores(data)
    return render_page("report/template.html", _context(data, scores))


def _context(data: RunData, scores: Scores) -> dict[str, Any]:
    reduction = figures.reduction(data)
    return {
        "name": data.root.resolve().name,
        "headline": story.headline(scores, reduction),
        "key_figures": figures.key_figures(data, scores),
        "recovery": _recovery_panel(scores),
        "findings": story.tell(data, scores),
        "stacks": stack.draw_stacks(data.plan) if data.plan else None,
        "dimensions": tables.dimensions(data),
        "importance": _importance_panels(data),
        "loss": _loss_panels(data),
        "classes": token_classes.class_table(data),
        "score_rows": tables.score_rows(data, scores),
        "groups": _group_panels(data, scores),
        "learning_rates": tables.learning_rates(data.summary),
        "targets": tables.target_rows(data.summary),
        "costs": tables.cost_rows(data),
        "facts": tables.run_facts(data),
        "commands": costs.commands(data),
        "measures": DEFINITIONS,
    }


def _recovery_panel(scores: Scores) -> Panel | None:
    """Draw how far each model is between the baseline and its teacher."""
    found = [(kind, spread) for kind in KINDS[1:] if (spread := scores.recovered(kind))]
    if not found:
        return None
    rows = [
        dots.Row(kind, NAMES[kind], {kind: spread}, percent(spread.mean)) for kind, spread in found
    ]
    low, high = dots.domain(rows, 0, 100)
    drawing = dots.dot_plot(rows, "recovery by model", _SUMMARY, low, high)
    remark = "0 % is the baseline, 100 % the teacher; the mean of minimal pairs and facts."
    return Panel("How much came back", drawing, (), remark)


def _importance_panels(data: RunData) -> list[Panel]:
    if data.scores is None:
        return []
    plan = data.plan if data.plan and _same_shape(data.plan, data) else None
    table = data.scores
    remark = f"Scored on {table.samples:,} samples, {count(table.tokens)} tokens."
    return [
        Panel("Layers, heads and ffn channels", importance.draw_layers(table, plan), (), remark),
        Panel("Hidden channels, one choice for all layers", importance.draw_hidden(table, plan)),
    ]


def _same_shape(plan: PruningPlan, data: RunData) -> bool:
    """Whether the plan's numbers point into the score table."""
    assert data.scores is not None
    return plan.source.replace(name="") == data.scores.arch.replace(name="")


def _loss_panels(data: RunData) -> list[Panel]:
    """Draw the teacher and the ways back; a KL and a next-token loss never share axes."""
    distilled = [kind for kind in WAYS_BACK if _is_distilled(kind, data)]
    labelled = [kind for kind in WAYS_BACK if kind not in distilled]
    panels = [
        _loss_panel(data, [TEACHER], "Teacher: next-token loss"),
        _loss_panel(data, distilled, "Ways back: KL to the teacher"),
        _loss_panel(data, labelled, "Control: next-token loss"),
    ]
    return [panel for panel in panels if panel]


def _is_distilled(kind: str, data: RunData) -> bool:
    stages = [model.manifest.stage for model in data.of_kind(kind) if model.manifest]
    return "distill" in stages if stages else kind != LABEL_TRAINED


def _loss_panel(data: RunData, kinds: list[str], heading: str) -> Panel | None:
    runs: dict[str, list[ModelRun]] = {}
    for kind in kinds:
        trained = [model for model in data.of_kind(kind) if curves.training_points(model.metrics)]
        if trained:
            runs[kind] = trained
    if not runs:
        return None
    lines = [line for kind, models in runs.items() for line in curves.loss_curves(kind, models)]
    return Panel(heading, curves.loss_chart(lines, heading, _THIRD), tuple(runs))


def _group_panels(data: RunData, scores: Scores) -> list[Panel]:
    """Draw accuracy by phenomenon and by relation for every model."""
    suites = (
        ("by_phenomenon", GRAMMAR, "Grammar: minimal pairs by phenomenon"),
        ("by_relation", KNOWLEDGE, "Knowledge: facts by relation"),
    )
    panels = []
    for field, measure, heading in suites:
        by_kind = {kind: group_scores(data, kind, field) for kind in (BASELINE, *KINDS)}
        groups = list(dict.fromkeys(name for found in by_kind.values() for name in found))
        if not groups:
            continue
        rows = [
            dots.Row(group, group.replace("_", " "), _marks(by_kind, group)) for group in groups
        ]
        floor = 100 * scores.baseline.get(measure, 0.0)
        low, high = dots.domain(rows, min(floor, 90.0), 100)
        drawing = dots.dot_plot(rows, heading, _PANEL, low, high)
        kinds = tuple(kind for kind in by_kind if by_kind[kind])
        panels.append(Panel(heading, drawing, kinds))
    return panels


def _marks(by_kind: dict[str, dict[str, Any]], group: str) -> dict[str, Any]:
    """Return the marks of a row; distilled and the teacher's outline come last, on top."""
    top = (DISTILLED, TEACHER)
    order = [*(kind for kind in by_kind if kind not in top), *top]
    return {kind: by_kind[kind][group] for kind in order if group in by_kind[kind]}


def _legend(kinds: tuple[str, ...]) -> Markup:
    keys = [
        svg.tag("span", svg.legend_mark(kind), f" {NAMES[kind]}", class_="key-item")
        for kind in kinds
    ]
    return svg.tag("p", *keys, class_="legend")
