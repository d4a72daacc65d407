"""Sentences follow the figures, whoever wins."""

from pathlib import Path
from typing import Any

from nemo_bielik.report.gather import RunData
from nemo_bielik.report.measures import Scores, read_scores
from nemo_bielik.report.story import Sentence, headline, tell

TEACHER = (4.0, 0.9, 0.9)


def story(**models: Any) -> tuple[list[Sentence], Scores]:
    """Tell of models given as (perplexity, pairs, facts); baselines are 0.5 and 0.1."""
    names = ("perplexity", "minimal_pairs_accuracy", "fact_accuracy")
    summary: dict[str, Any] = {"baseline": dict(zip(names[1:], (0.5, 0.1), strict=True))}
    for kind, figures in models.items():
        if kind in ("targets", "intervals_over_items"):
            summary[kind] = figures
        elif isinstance(figures, list):
            seeds = [dict(zip(names, one, strict=True)) for one in figures]
            summary[kind] = {"seeds": seeds}
        else:
            summary[kind] = dict(zip(names[: len(figures)], figures, strict=True))
    data = RunData(root=Path("."), models=(), plan=None, scores=None, summary=summary, stages=())
    scores = read_scores(data)
    return tell(data, scores), scores


def said(sentences: list[Sentence]) -> str:
    return " ".join(sentence.text.replace("\N{NO-BREAK SPACE}", " ") for sentence in sentences)


def test_distillation_wins() -> None:
    sentences, scores = story(
        teacher=TEACHER,
        pruned=(40.0, 0.7, 0.3),
        distilled=(5.0, 0.86, 0.82),
        label_trained=(6.0, 0.82, 0.74),
        from_scratch=(9.0, 0.7, 0.3),
    )
    text = said(sentences)
    assert "Distillation won: it came back to 90.0 %, against 80.0 % by training" in text
    assert "The cut left 37.5 %" in text
    assert {sentence.tone for sentence in sentences} == {"plain"}
    assert "control" not in headline(scores, 33.4)


def test_a_control_wins() -> None:
    sentences, scores = story(
        teacher=TEACHER,
        pruned=(40.0, 0.7, 0.3),
        distilled=(5.0, 0.82, 0.74),
        label_trained=(4.5, 0.86, 0.82),
    )
    verdict = sentences[1]
    assert verdict.tone == "warning"
    assert verdict.text.startswith("A control won: training the pruned model on labels beat")
    assert "Distillation won" not in said(sentences)
    assert headline(scores, 33.4).endswith("; a control recovered more")


def test_overlapping_seeds_are_no_win() -> None:
    sentences, _ = story(
        teacher=TEACHER,
        pruned=(40.0, 0.7, 0.3),
        distilled=[(5.0, 0.80, 0.70), (5.0, 0.88, 0.86)],
        label_trained=[(5.0, 0.78, 0.66), (5.0, 0.82, 0.74)],
    )
    assert sentences[1].text.startswith("No clear winner")
    assert "whose seeds overlap" in sentences[1].text


def test_less_than_a_point_is_no_win() -> None:
    sentences, _ = story(
        teacher=TEACHER,
        pruned=(40.0, 0.7, 0.3),
        distilled=(5.0, 0.820, 0.74),
        from_scratch=(5.0, 0.822, 0.74),
    )
    assert "within a point of each other" in said(sentences)


def test_which_suffered_more() -> None:
    knowledge, _ = story(teacher=TEACHER, pruned=(40.0, 0.8, 0.2))
    grammar, _ = story(teacher=TEACHER, pruned=(40.0, 0.6, 0.8))
    alike, _ = story(teacher=TEACHER, pruned=(40.0, 0.7, 0.5))
    assert "Knowledge suffered more than grammar: the pruned model kept 12.5 %" in said(knowledge)
    assert "Grammar suffered more than knowledge" in said(grammar)
    assert "suffered alike" in said(alike)


def test_a_cut_that_does_no_harm_is_said() -> None:
    sentences, _ = story(teacher=TEACHER, pruned=(4.0, 0.9, 0.9), distilled=(4.0, 0.9, 0.9))
    assert sentences[0].text.startswith("The cut did no harm")
    assert sentences[0].tone == "warning"


def test_a_teacher_that_only_guesses_recovers_nothing() -> None:
    sentences, scores = story(teacher=(9.0, 0.5, 0.1), pruned=(9.5, 0.5, 0.1))
    assert scores.recovered("pruned") is None
    assert sentences == []


def test_perplexity_alone_and_a_control_that_wins() -> None:
    sentences, scores = story(
        teacher=(4.0,), pruned=(64.0,), distilled=(8.0,), label_trained=(6.0,)
    )
    assert "A control won: training the pruned model on labels reaches perplexity 6.00" in said(
        sentences
    )
    assert "75.0 % of the lost ground" in headline(scores, 33.4).replace("\N{NO-BREAK SPACE}", " ")


def test_targets() -> None:
    met = {"name": "teacher", "wanted": 0.95, "got": 0.98, "met": True}
    missed = {"name": "distilled", "wanted": 90, "got": 86.125, "met": False}
    assert "Every target of the run was met." in said(story(targets=[met])[0])
    assert said(story(targets=[met, missed])[0]) == (
        "Target missed: distilled (wanted 90, got 86.12)."
    )


def test_what_the_items_leave_open_is_said() -> None:
    models = {
        "teacher": TEACHER,
        "pruned": (40.0, 0.7, 0.3),
        "distilled": (5.0, 0.86, 0.82),
        "label_trained": (6.0, 0.82, 0.74),
    }

    def intervals(low: float) -> dict[str, Any]:
        lead = {"points": 1.25, "interval": [low, 2.6]}
        ends = {"distilled": [91.76, 94.52]}
        return {
            "confidence": 0.95,
            "recovery_percent": ends,
            "lead_points": {"label_trained": lead},
        }

    sentences, _ = story(**models, intervals_over_items=intervals(-0.1))
    found = next(one for one in sentences if "choice of test items" in one.text)
    assert "recovers 91.8 to 94.5" in found.text and "−0.1 to 2.6 points" in found.text
    assert "leave open which is better" in found.text and found.tone == "warning"
    sentences, _ = story(**models, intervals_over_items=intervals(0.2))
    found = next(one for one in sentences if "choice of test items" in one.text)
    assert "clear of 0" in found.text and found.tone == "plain"
    assert "choice of test items" not in said(story(**models)[0])
