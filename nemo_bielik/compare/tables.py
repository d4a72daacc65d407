"""The figures of a comparison as cells of text, and what each measure means."""

from dataclasses import dataclass
from typing import Any

from nemo_bielik.compare.ranking import LEVEL, Ranking, Standing
from nemo_bielik.report.wording import (
    NONE,
    count,
    duration,
    number,
    percent,
    perplexity,
    size_bytes,
)

#: What a size is called on the page.
_SIZES = {
    "num_layers": "layers",
    "hidden_size": "hidden channels",
    "ffn_hidden_size": "ffn channels",
    "num_attention_heads": "heads",
    "num_query_groups": "query groups",
}


@dataclass(frozen=True)
class Figure:
    """One figure of the page's head."""

    name: str
    text: str
    label: str
    remark: str


@dataclass(frozen=True)
class Cell:
    """One cell of the table: what it names, its text and a small second line."""

    name: str
    text: str
    remark: str = ""


@dataclass(frozen=True)
class TableRow:
    """One contender's line of the table."""

    kind: str
    name: str
    paper: str
    cells: list[Cell]


def key_figures(found: dict[str, Any]) -> list[Figure]:
    """Return what was compared, at which size, on how much text."""
    model, target = found["model"], found["target_parameters"]
    contenders = len(found["contenders"])
    return [
        Figure(
            "model.parameters",
            count(model["parameters"]),
            "weights of the original",
            f"perplexity {perplexity(model['perplexity'])}",
        ),
        Figure(
            "target_parameters",
            count(target),
            f"wanted, {percent(100 * (1 - target / model['parameters']))} fewer",
            cut_words(found["target"]),
        ),
        Figure("contenders", str(contenders), "contender" if contenders == 1 else "contenders", ""),
        Figure(
            "calibration_tokens",
            count(found["calibration_tokens"]),
            "calibration tokens",
            "to collect statistics on",
        ),
        Figure(
            "recovery_tokens",
            count(found["recovery_tokens"]),
            "recovery tokens",
            "the same for every contender",
        ),
    ]


def original(found: dict[str, Any]) -> list[Cell]:
    """Return the cells of the original's line; what it does not have is left out."""
    model = found["model"]
    share = None if "minimal_pairs_accuracy" not in model and "fact_accuracy" not in model else 100
    judged = _judged("model", {**model, "share_percent": share})
    return [
        Cell("", ""),
        Cell("model.parameters.all", f"{model['parameters']:,}"),
        *[Cell("", "")] * 5,
        *judged,
        *[Cell("", "")] * 4,
    ]


def rows(ranking: Ranking) -> list[TableRow]:
    """Return the contenders' lines, best recovered first."""
    return [
        TableRow(standing.kind, standing.name, standing.row["paper"], _cells(standing))
        for standing in ranking.standings
    ]


def _cells(standing: Standing) -> list[Cell]:
    row, name = standing.row, standing.name
    stored, used = row["parameters"], row["nonzero_parameters"]
    zeros = Cell(f"{name}.zeros", NONE)
    if used < stored:
        zeros = Cell(f"{name}.zeros", f"{row['zeros_after_recovery']:,}", f"of {stored - used:,}")
    return [
        Cell(f"{name}.cut", cut_words(row["cut"]), row["granularity"]),
        Cell(f"{name}.weights", f"{used:,}", f"of {stored:,}"),
        Cell(f"{name}.reduction_percent", percent(row["reduction_percent"])),
        *_judged(f"{name}.pruned", row["pruned"]),
        *_judged(f"{name}.recovered", row["recovered"]),
        Cell(
            f"{name}.seconds",
            duration(standing.seconds),
            f"{duration(row['score_seconds'])} + {duration(row['prune_seconds'])}",
        ),
        Cell(f"{name}.recovery_seconds", duration(row["recovery_seconds"])),
        Cell(f"{name}.added_bytes", size_bytes(row["added_bytes"])),
        zeros,
    ]


def _judged(name: str, judged: dict[str, Any]) -> list[Cell]:
    """Return perplexity, pairs, facts and the share kept; what was not measured is a dash."""

    def share(measure: str, scale: float) -> Cell:
        value = judged.get(measure)
        return Cell(f"{name}.{measure}", NONE if value is None else percent(scale * value))

    return [
        Cell(f"{name}.perplexity", perplexity(judged["perplexity"])),
        share("minimal_pairs_accuracy", 100),
        share("fact_accuracy", 100),
        share("share_percent", 1),
    ]


def cut_words(cut: dict[str, Any]) -> str:
    """Return what a contender was cut to, in words."""
    words = []
    for name, value in cut.items():
        if name == "sparsity":
            words.append(f"{percent(100 * value)} zeros")
        elif name == "pattern":
            words.append(f"{value} kept")
        else:
            words.append(f"{value:,} {_SIZES.get(name, name)}")
    return ", ".join(words)


def definitions(found: dict[str, Any], ranking: Ranking) -> list[tuple[str, str]]:
    """Return what each measure means, those of this page alone."""
    terms = [
        (
            "Weights",
            "every element of every tensor that is stored; the second count leaves out weights of "
            "the layers’ projections that are exactly zero. Unstructured contenders get the share "
            "of zeros that leaves as many weights as the target has.",
        ),
        ("Perplexity", "exp of the mean loss per token on held-out text; lower is better."),
    ]
    model = found["model"]
    if "minimal_pairs_accuracy" in model:
        terms.append(
            (
                "Minimal pairs",
                "a correct sentence beside one with a single wrong ending; how often the correct "
                "one is more probable. Guessing gives 50 %.",
            )
        )
    if "fact_accuracy" in model:
        terms.append(
            (
                "Facts",
                "sentences with the value left open; how often the true value is the most probable "
                f"candidate. Guessing gives {percent(100 * model['fact_chance'])}.",
            )
        )
    if ranking.by_share:
        terms.append(
            (
                "Kept",
                "100 · (model − guessing) / (original − guessing), the mean of minimal pairs and "
                "facts where both were asked.",
            )
        )
    return [
        *terms,
        (
            "Recovered",
            "distilled from the original on the same tokens in the same order; zeros stay zeros at "
            "every step. …@lora trains low-rank adapters alone, which are then merged.",
        ),
        (
            "Seconds",
            "wall time of scoring and of pruning. Methods that share statistics share one scoring "
            "pass, and each is charged the whole of it.",
        ),
        (
            "Added memory",
            "the most resident memory while scoring or pruning, whichever is more, less what the "
            "process held before.",
        ),
        (
            "Level",
            f"within {number(LEVEL, 0)} {'point' if ranking.by_share else '%'} of each other. "
            "Every contender was recovered once, so a small difference may be chance.",
        ),
    ]
