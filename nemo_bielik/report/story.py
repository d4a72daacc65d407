"""What the figures say, in sentences computed from them; a result that disappoints is said too."""

from dataclasses import dataclass
from typing import Any

from nemo_bielik.report.gather import CONTROLS, WAYS_BACK, RunData
from nemo_bielik.report.measures import GRAMMAR, KNOWLEDGE, PERPLEXITY, Scores
from nemo_bielik.report.wording import NAMES, count, listed, number, percent, perplexity
from nemo_bielik.runs import DISTILLED, FROM_SCRATCH, LABEL_TRAINED, PRUNED

#: Percentage points below which two recoveries are called equal.
_SAME = 1.0
_WAYS = {
    LABEL_TRAINED: "training the pruned model on labels",
    FROM_SCRATCH: "distilling into random weights",
}


@dataclass(frozen=True)
class Sentence:
    """One finding; `tone` is ``plain``, or ``warning`` for what did not go as hoped."""

    text: str
    tone: str = "plain"


def tell(data: RunData, scores: Scores) -> list[Sentence]:
    """Return the findings that this run has the figures for."""
    found = [
        damage(scores),
        winner(data, scores) or by_perplexity(scores),
        over_items(data.summary),
        suffering(scores),
        *targets(data.summary),
    ]
    return [sentence for sentence in found if sentence]


def damage(scores: Scores) -> Sentence | None:
    """Say what the cut alone did."""
    left = scores.recovered(PRUNED)
    if left is None:
        return None
    if left.mean >= 100 - _SAME:
        return Sentence(
            f"The cut did no harm: the pruned model keeps {percent(left.mean)} of its teacher’s "
            "score above the baseline, so there was nothing for training to bring back.",
            "warning",
        )
    return Sentence(f"The cut left {percent(left.mean)} of the teacher’s score above the baseline.")


def winner(data: RunData, scores: Scores) -> Sentence | None:
    """Say which way back won, whichever it is; overlapping seeds make it no clear win."""
    spreads = {kind: spread for kind in WAYS_BACK if (spread := scores.recovered(kind))}
    if DISTILLED not in spreads:
        return None
    own = percent(spreads.pop(DISTILLED).mean)
    if not spreads:
        return Sentence(f"Distillation came back to {own}; no control was run.")
    others = listed([f"{percent(s.mean)} by {_WAYS[kind]}" for kind, s in spreads.items()])
    figures = f"came back to {own}, against {others}{_budget(data)}."
    rival, verdict = contest(scores)
    if verdict == "distilled":
        return Sentence(f"Distillation won: it {figures}")
    if verdict == "control":
        return Sentence(
            f"A control won: {_WAYS[rival]} beat distillation. Distillation {figures}", "warning"
        )
    return Sentence(
        f"No clear winner between distillation and {_WAYS[rival]}, {verdict}. "
        f"Distillation {figures}",
        "warning",
    )


def contest(scores: Scores) -> tuple[str, str]:
    """Return the best control and who won: ``distilled``, ``control``, or why neither."""
    own = scores.recovery[DISTILLED]["all"]
    spreads = {kind: spread for kind in CONTROLS if (spread := scores.recovered(kind))}
    rival = max(spreads, key=lambda kind: spreads[kind].mean)
    best = spreads[rival]
    if own.low <= best.high and best.low <= own.high and len(own.values) > 1:
        return rival, "whose seeds overlap"
    if abs(own.mean - best.mean) < _SAME:
        return rival, "which lie within a point of each other"
    return rival, "distilled" if own.mean > best.mean else "control"


def over_items(summary: dict[str, Any]) -> Sentence | None:
    """Say what the choice of test items leaves open, where the summary has intervals over it."""
    found = summary.get("intervals_over_items") or {}
    ends = (found.get("recovery_percent") or {}).get(DISTILLED)
    leads = found.get("lead_points") or {}
    rivals = {kind: lead for kind in CONTROLS if (lead := leads.get(kind)) and lead["interval"]}
    if not ends or not rivals:
        return None
    rival = min(rivals, key=lambda kind: float(rivals[kind]["points"]))
    low, high = rivals[rival]["interval"]
    is_open = low <= 0 <= high
    verdict = "so these items leave open which is better" if is_open else "clear of 0"
    return Sentence(
        f"Over the choice of test items (seeds averaged, {100 * found['confidence']:g} % "
        f"intervals), distillation recovers {number(ends[0])} to {percent(ends[1])}; its lead on "
        f"{_WAYS[rival]} is {number(low)} to {number(high)} points, {verdict}.",
        "warning" if is_open else "plain",
    )


def by_perplexity(scores: Scores) -> Sentence | None:
    """Say how the ways back compare where perplexity is all that was measured."""
    found = {kind: spread for kind in WAYS_BACK if (spread := scores.get(kind, PERPLEXITY))}
    closed = scores.gap_closed()
    if DISTILLED not in found or closed is None:
        return None
    start = (
        f"Distillation took back {percent(closed)} of the loss that the cut added "
        f"(perplexity {perplexity(found[DISTILLED].mean)})"
    )
    best = min(found, key=lambda kind: found[kind].mean)
    if best == DISTILLED:
        return Sentence(f"{start}.", "plain" if closed > 0 else "warning")
    return Sentence(
        f"A control won: {_WAYS[best]} reaches perplexity {perplexity(found[best].mean)}. {start}.",
        "warning",
    )


def suffering(scores: Scores) -> Sentence | None:
    """Say whether the cut hurt knowledge more than grammar, and what came back of each."""
    knowledge, grammar = scores.recovered(PRUNED, KNOWLEDGE), scores.recovered(PRUNED, GRAMMAR)
    if knowledge is None or grammar is None:
        return None
    figures = f"{percent(knowledge.mean)} of the facts and {percent(grammar.mean)} of the grammar"
    back = [scores.recovered(DISTILLED, measure) for measure in (KNOWLEDGE, GRAMMAR)]
    after = ""
    if back[0] and back[1]:
        after = f"; distilled, {percent(back[0].mean)} and {percent(back[1].mean)}"
    if abs(knowledge.mean - grammar.mean) < _SAME:
        start, tone = "Knowledge and grammar suffered alike", "plain"
    elif knowledge.mean < grammar.mean:
        start, tone = "Knowledge suffered more than grammar", "plain"
    else:
        start, tone = "Grammar suffered more than knowledge, unlike what was expected", "warning"
    return Sentence(f"{start}: the pruned model kept {figures}{after}.", tone)


def targets(summary: dict[str, Any]) -> list[Sentence]:
    """Say which targets were missed, or that none was."""
    wanted = summary.get("targets") or []
    missed = [target for target in wanted if not target.get("met")]
    if wanted and not missed:
        return [Sentence("Every target of the run was met.")]
    return [
        Sentence(
            f"Target missed: {target['name']} (wanted {shown(target['wanted'])}, "
            f"got {shown(target['got'])}).",
            "warning",
        )
        for target in missed
    ]


def trained_tokens(data: RunData, kind: str) -> int:
    """Return the tokens that a model of this kind was trained on, 0 where that is unknown."""
    return max(
        (int(line.get("tokens", 0)) for model in data.of_kind(kind) for line in model.metrics),
        default=0,
    )


def _budget(data: RunData) -> str:
    """Say how many tokens the ways back had, if that is known."""
    tokens = {kind: trained_tokens(data, kind) for kind in (DISTILLED, *CONTROLS)}
    known = {kind: number for kind, number in tokens.items() if number}
    if DISTILLED not in known or len(known) < 2:
        return ""
    if max(known.values()) <= 1.01 * min(known.values()):
        return f", each on {count(known[DISTILLED])} tokens"
    figures = [f"{count(number)} for {NAMES[kind]}" for kind, number in known.items()]
    return f", though on unequal tokens ({listed(figures)})"


def shown(value: object) -> str:
    """Return a target's figure as text, whether the summary has it as a number or in words."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def headline(scores: Scores, reduction: float | None) -> str:
    """Return the page's title line; a control that did better is named in it."""
    recovered, closed = scores.recovered(DISTILLED), scores.gap_closed()
    smaller = f"{percent(reduction)} smaller" if reduction else "A model"
    if recovered:
        controls = any(scores.recovered(kind) for kind in CONTROLS)
        lost = controls and contest(scores)[1] == "control"
        after = "; a control recovered more" if lost else ""
        return f"{smaller}, {percent(recovered.mean)} recovered{after}"
    if closed is not None:
        return f"{smaller}, {percent(closed)} of the lost ground taken back"
    if scores.by_kind:
        return f"{smaller}, and measured"
    return smaller if reduction else "An unfinished run"
