"""Contenders in order: what each keeps of the original right after the cut and after recovery."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nemo_bielik.report.wording import number, percent

#: Kinds of contenders by what they leave behind: a smaller model, zeros anywhere, zeros in groups.
STRUCTURED, UNSTRUCTURED, PATTERN = "structured", "unstructured", "pattern"
KIND_NAMES = {STRUCTURED: "structured", UNSTRUCTURED: "unstructured", PATTERN: "n:m pattern"}
#: Percentage points, or percent of a perplexity, within which two results are called level.
LEVEL = 1.0

#: One of the two moments at which a contender is judged.
Moment = Callable[["Standing"], float]


@dataclass(frozen=True)
class Standing:
    """One contender: its row of ``comparison.json``, and the figure it is ranked by at each moment.

    Attributes:
        before: right after the cut.
        after: after recovery.
    """

    row: dict[str, Any]
    before: float
    after: float

    @property
    def name(self) -> str:
        """The contender's name, ``wanda@2:4``."""
        return str(self.row["name"])

    @property
    def kind(self) -> str:
        """What its cut leaves behind, one of the three kinds."""
        return kind_of(self.row)

    @property
    def seconds(self) -> float:
        """Wall time of scoring and pruning."""
        return float(self.row["score_seconds"] + self.row["prune_seconds"])


@dataclass(frozen=True)
class Ranking:
    """The contenders, best recovered first.

    Attributes:
        by_share: ranked by the share of the original's score kept, in percent; False where no task
            was evaluated: by perplexity, as a multiple of the original's.
    """

    standings: list[Standing]
    by_share: bool

    def loss(self, figure: float) -> float:
        """Return `figure` so that less is better and `LEVEL` is a difference to speak of."""
        return -figure if self.by_share else 100 * math.log(figure)

    def text(self, figure: float) -> str:
        """Return ``93.2 %``, or ``1.04 ×`` of a perplexity."""
        return percent(figure) if self.by_share else f"{number(figure, 2)}\N{NO-BREAK SPACE}×"

    def tick(self, figure: float) -> str:
        """Return `figure` as an axis has it."""
        return f"{figure:.6g} %".replace("-", "−") if self.by_share else f"{figure:.6g}"

    def ordered(self, moment: Moment) -> list[Standing]:
        """Return the contenders, best first at one moment."""
        return sorted(self.standings, key=lambda standing: self.loss(moment(standing)))

    def leaders(self, moment: Moment) -> list[Standing]:
        """Return the best and those level with it."""
        best, *others = self.ordered(moment)
        return [best, *(other for other in others if not self.is_better(best, other, moment))]

    def is_better(self, one: Standing, other: Standing, moment: Moment) -> bool:
        """Whether `one` beats `other` by more than `LEVEL`."""
        return self.loss(moment(one)) + LEVEL < self.loss(moment(other))


def before(standing: Standing) -> float:
    """Return the figure right after the cut."""
    return standing.before


def after(standing: Standing) -> float:
    """Return the figure after recovery."""
    return standing.after


def rank(found: dict[str, Any]) -> Ranking:
    """Order the contenders of a ``comparison.json``."""
    rows = found["contenders"]
    by_share = all(
        row[stage]["share_percent"] is not None for row in rows for stage in ("pruned", "recovered")
    )
    original = found["model"]["perplexity"]

    def figure(judged: dict[str, Any]) -> float:
        return float(judged["share_percent"] if by_share else judged["perplexity"] / original)

    standings = [Standing(row, figure(row["pruned"]), figure(row["recovered"])) for row in rows]
    ranking = Ranking(standings, by_share)
    return Ranking(ranking.ordered(after), by_share)


def kind_of(row: dict[str, Any]) -> str:
    """Return the kind of a contender, which its cut tells."""
    if "pattern" in row["cut"]:
        return PATTERN
    return UNSTRUCTURED if "sparsity" in row["cut"] else STRUCTURED
