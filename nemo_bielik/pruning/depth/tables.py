"""A ranking of layers as tables for a terminal."""

import statistics
from collections.abc import Collection, Sequence

from nemo_bielik.pruning.depth.ranking import DepthRanking

#: Counts that the tables of shares show, at most; all are in depth.json.
_COLUMNS = 8


def tables(ranking: DepthRanking) -> list[str]:
    """Return the lines of all tables: the cuts, their agreement, their stability."""
    lines = [*_cuts(ranking), "", *_agreement(ranking)]
    return [*lines, "", *_stability(ranking)] if ranking.stability else lines


def _cuts(ranking: DepthRanking) -> list[str]:
    names = list(ranking.whole)
    rows = [["way", "dropped", *(name.replace("_", " ") for name in names), "layers"]]
    rows.append(["(whole model)", "0", *_figures(ranking.whole), ""])
    for count in range(1, ranking.most + 1):
        for way, cuts in ranking.ways.items():
            cut = cuts[count - 1]
            which = ", ".join(map(str, cut.dropped))
            rows.append([way, str(count), *_figures(cut.measured), which])
    words = (0, len(rows[0]) - 1)
    seen = ", ".join(f"{number:,} {name}" for name, number in ranking.judged_on.items())
    return [f"right after the cut, on what no way chose by ({seen}):", *_aligned(rows, words)]


def _figures(measured: dict[str, float]) -> list[str]:
    return [
        f"{100 * value:.1f} %" if name.endswith("accuracy") else f"{value:.3f}"
        for name, value in measured.items()
    ]


def _agreement(ranking: DepthRanking) -> list[str]:
    rows = [_header(ranking, "two ways")]
    for (first, second), shares in ranking.agreement().items():
        rows.append([f"{first}, {second}", *_shares(ranking, shares)])
    rows.append(_chance(ranking, "(by chance)"))
    return ["share of the dropped layers that two ways have in common:", *_aligned(rows)]


def _stability(ranking: DepthRanking) -> list[str]:
    rows = [_header(ranking, "way", "size", "samples")]
    for own in ranking.stability:
        start = [own.way, str(own.size), str(len(own.choices))]
        missing = f"too few: {own.available:,} to draw from"
        rows.append(
            [*start, *_shares(ranking, own.overlaps())] if own.choices else [*start[:2], missing]
        )
    rows.append(_chance(ranking, "(by chance)", "", ""))
    return [
        "share of the dropped layers that two samples of one size have in common,",
        "mean over pairs of samples (size: windows of text, for greedy-task items of each suite):",
        *_aligned(rows),
    ]


def _header(ranking: DepthRanking, *titles: str) -> list[str]:
    return [*titles, "mean", *(str(count) for count in _shown(ranking.most))]


def _chance(ranking: DepthRanking, *titles: str) -> list[str]:
    by_chance = [count / ranking.num_layers for count in range(1, ranking.most + 1)]
    return [*titles, *_shares(ranking, by_chance)]


def _shares(ranking: DepthRanking, shares: Sequence[float]) -> list[str]:
    mean = statistics.fmean(shares)
    return [f"{mean:.2f}", *(f"{shares[count - 1]:.2f}" for count in _shown(ranking.most))]


def _shown(most: int) -> list[int]:
    """Return the counts that get a column: all, or some from first to last."""
    if most <= _COLUMNS:
        return list(range(1, most + 1))
    return [1 + round(place * (most - 1) / (_COLUMNS - 1)) for place in range(_COLUMNS)]


def _aligned(rows: Sequence[Sequence[str]], words: Collection[int] = (0,)) -> list[str]:
    """Lay out columns, those of `words` to the left and figures to the right.

    A row that is shorter than the others says something in its last cell, of whatever width.
    """
    columns = max(map(len, rows))
    full = [row for row in rows if len(row) == columns]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    lines = []
    for row in rows:
        cells = [
            text.ljust(width) if column in words else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines
