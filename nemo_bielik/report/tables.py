"""The tables of the page, cell by cell; ``data-figure`` names each cell there."""

from typing import Any

from nemo_bielik.planner.parameters import count_one_embedding, count_parameters
from nemo_bielik.report import costs, wording
from nemo_bielik.report.figures import Figure, percent_change
from nemo_bielik.report.gather import KINDS, RunData
from nemo_bielik.report.measures import (
    BASELINE,
    GRAMMAR,
    KNOWLEDGE,
    MEASURES,
    PERPLEXITY,
    Scores,
    Spread,
)
from nemo_bielik.report.story import shown, trained_tokens
from nemo_bielik.runs import PRUNED, TEACHER

_DIMENSIONS = (
    ("layers", "num_layers"),
    ("hidden channels", "hidden_size"),
    ("ffn channels", "ffn_hidden_size"),
    ("attention heads", "num_attention_heads"),
    ("query groups", "num_query_groups"),
    ("head dimension", "head_dim"),
    ("vocabulary", "vocab_size"),
)


def dimensions(data: RunData) -> list[list[Figure]]:
    """Return the rows of the table of the two architectures."""
    source, target = data.arch(TEACHER), data.arch(PRUNED)
    if source is None or target is None:
        return []
    rows = [
        _compared(field, label, getattr(source, field), getattr(target, field))
        for label, field in _DIMENSIONS
    ]
    for field, label, counted in (
        ("params", "parameters on disk", count_parameters),
        ("params_one_embedding", "parameters, one embedding", count_one_embedding),
    ):
        rows.append(_compared(field, label, counted(source), counted(target)))
    before, after = data.num_bytes(TEACHER), data.num_bytes(PRUNED)
    if before and after:
        texts = wording.size_bytes(before), wording.size_bytes(after)
        rows.append(_row("bytes", "weights on disk", *texts, _change(before, after)))
    return rows


def _compared(field: str, label: str, before: int, after: int) -> list[Figure]:
    return _row(field, label, f"{before:,}", f"{after:,}", _change(before, after))


def _row(field: str, label: str, before: str, after: str, change: str) -> list[Figure]:
    return [
        Figure(field, label),
        Figure(f"{TEACHER}.{field}", before),
        Figure(f"{PRUNED}.{field}", after),
        Figure(f"change.{field}", change),
    ]


def _change(before: int, after: int) -> str:
    return wording.percent(percent_change(before, after)) if after != before else "="


def score_rows(data: RunData, scores: Scores) -> list[tuple[str, list[Figure]]]:
    """Return the rows of the table of scores: (kind, cells)."""
    rows = [
        (BASELINE, _baseline_cells(name, told))
        for name, told in _baselines(data, scores)
        if any(measure in told for measure in MEASURES)
    ]
    return rows + [(kind, _cells(kind, data, scores)) for kind in KINDS if kind in scores.by_kind]


def _baselines(data: RunData, scores: Scores) -> list[tuple[str, dict[str, Any]]]:
    told = data.summary.get(BASELINE) or {}
    parts = [
        (name, told[name]) for name in ("unigram", "bigram") if isinstance(told.get(name), dict)
    ]
    return parts or [(BASELINE, dict(scores.baseline))]


def _baseline_cells(name: str, told: dict[str, Any]) -> list[Figure]:
    label = name if name == BASELINE else f"baseline, word {name}"
    cells = [Figure(f"{name}.name", label), Figure(f"{name}.tokens", wording.NONE)]
    for measure in MEASURES:
        value = told.get(measure)
        spread = Spread((float(value),)) if isinstance(value, int | float) else None
        cells.append(_measured(f"{name}.{measure}", measure, spread))
    return cells + [Figure(f"{name}.{key}", wording.NONE) for key in ("grammar", "facts", "all")]


def _cells(kind: str, data: RunData, scores: Scores) -> list[Figure]:
    tokens = trained_tokens(data, kind)
    own = [
        Figure(f"{kind}.name", wording.NAMES[kind]),
        Figure(f"{kind}.tokens", wording.count(tokens) if tokens else wording.NONE),
    ]
    own += [_measured(f"{kind}.{m}", m, scores.get(kind, m)) for m in MEASURES]
    for key, measure in (("grammar", GRAMMAR), ("facts", KNOWLEDGE), ("all", "all")):
        own.append(_percent_cell(f"{kind}.recovery.{key}", scores.recovered(kind, measure)))
    return own


def _measured(name: str, measure: str, spread: Spread | None) -> Figure:
    if spread is None or measure != PERPLEXITY:
        scaled = Spread(tuple(100 * value for value in spread.values)) if spread else None
        return _percent_cell(name, scaled)
    low, high = wording.perplexity(spread.low), wording.perplexity(spread.high)
    return Figure(name, wording.perplexity(spread.mean), _range(low, high, len(spread.values)))


def _percent_cell(name: str, spread: Spread | None) -> Figure:
    if spread is None:
        return Figure(name, wording.NONE)
    low, high = wording.number(spread.low), wording.number(spread.high)
    return Figure(name, wording.percent(spread.mean), _range(low, high, len(spread.values)))


def _range(low: str, high: str, seeds: int) -> str:
    return f"{low} to {high}" if seeds > 1 else ""


def learning_rates(summary: dict[str, Any]) -> list[list[str]]:
    """Return the learning rates tried for the labels, the best marked."""
    tried = summary.get("label_learning_rates") or []
    best = min((row["validation_perplexity"] for row in tried), default=None)
    return [
        [
            f"{row['learning_rate']:g}",
            wording.perplexity(row["validation_perplexity"]),
            "chosen" if row["validation_perplexity"] == best else "",
        ]
        for row in tried
    ]


def target_rows(summary: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Return name, wanted, got and whether it was met, for every target of the run."""
    return [
        (str(row["name"]), shown(row["wanted"]), shown(row["got"]), bool(row["met"]))
        for row in summary.get("targets") or []
    ]


def cost_rows(data: RunData) -> list[list[str | float]]:
    """Return label, times, tokens, wall time and its share in percent of the longest row."""
    rows = costs.stage_costs(data)
    longest = max((row.seconds for row in rows), default=0.0) or 1.0
    return [
        [
            row.label,
            f"× {row.times}" if row.times > 1 else "",
            wording.count(row.tokens) if row.tokens else "",
            wording.duration(row.seconds),
            round(100 * row.seconds / longest, 1),
        ]
        for row in rows
    ]


def run_facts(data: RunData) -> list[tuple[str, str]]:
    """Return what identifies the run: seeds, commit, versions, peak memory."""
    found: list[tuple[str, str]] = []
    if seeds := costs.seeds(data):
        found.append(("seeds of the ways back", wording.listed([str(seed) for seed in seeds])))
    if peak := data.summary.get("peak_rss_bytes"):
        found.append(("peak memory", wording.memory(peak)))
    found += [("git commit", commit) for commit in costs.commits(data)]
    return found + costs.versions(data)
