"""What a comparison says, in sentences computed from its figures, whoever wins."""

from itertools import combinations
from typing import Any

from nemo_bielik.compare.ranking import (
    KIND_NAMES,
    LEVEL,
    Moment,
    Ranking,
    Standing,
    after,
    before,
)
from nemo_bielik.report.story import Sentence
from nemo_bielik.report.wording import count, duration, listed, number, percent, size_bytes

#: Percent of the target's weights by which a contender may miss it unmentioned.
_SIZE_MISSED = 1.0
#: Places in the order that are worth a word.
_PLACES = 2
_NAMED = 3


def headline(ranking: Ranking) -> str:
    """Return the page's title line."""
    if len(ranking.standings) == 1:
        (only,) = ranking.standings
        of_what = " kept" if ranking.by_share else " the original’s perplexity"
        return (
            f"{only.name}: {ranking.text(only.before)}{of_what} right after the cut, "
            f"{ranking.text(only.after)} after recovery"
        )
    first, then = ranking.leaders(before), ranking.leaders(after)
    opening = f"{_lead(ranking, first)} right after the cut"
    if {standing.name for standing in first} == {standing.name for standing in then}:
        return f"{opening}, and after recovery"
    if len(then) > _NAMED:
        return f"{opening}; after recovery {len(then)} of {len(ranking.standings)} are level"
    if len(first) > _NAMED:
        return f"{opening}; after recovery {_lead(ranking, then)}"
    return f"{opening}; after recovery {_names(then)} {'does' if len(then) == 1 else 'do'}"


def _lead(ranking: Ranking, leaders: list[Standing]) -> str:
    if len(leaders) > _NAMED:
        return f"{len(leaders)} of {len(ranking.standings)} contenders are level"
    verb, rest = ("keep", "most") if ranking.by_share else ("stay", "nearest to the original")
    return f"{_names(leaders)} {verb}{'s' if len(leaders) == 1 else ''} {rest}"


def tell(found: dict[str, Any], ranking: Ranking) -> list[Sentence]:
    """Return what stands out, most important first."""
    several = len(ranking.standings) > 1
    told = [
        spread(ranking) if several else None,
        changes(ranking) if several else None,
        unbeaten(ranking) if several else None,
        kinds(ranking),
        *adapters(ranking),
        costs(ranking) if several else None,
        missed_sizes(found, ranking),
        hurt(ranking),
    ]
    return [sentence for sentence in told if sentence]


def spread(ranking: Ranking) -> Sentence:
    """Say how far apart the contenders are at both moments."""
    ends = [_ends(ranking, moment) for moment in (before, after)]
    verb, what = ("keep", "of the original’s score above guessing")
    if not ranking.by_share:
        verb, what = ("have", "the original’s perplexity")
    return Sentence(
        f"Right after the cut the contenders {verb} {ends[0]} {what}; after recovery {ends[1]}."
    )


def _ends(ranking: Ranking, moment: Moment) -> str:
    order = ranking.ordered(moment)
    worst, best = order[-1], order[0]
    return (
        f"from {ranking.text(moment(worst))} ({worst.name}) to "
        f"{ranking.text(moment(best))} ({best.name})"
    )


def changes(ranking: Ranking) -> Sentence:
    """Say how much the order right after the cut tells about the order after recovery."""
    pairs = list(combinations(ranking.standings, 2))
    turned = sum(
        ranking.is_better(one, other, before) and ranking.is_better(other, one, after)
        for pair in pairs
        for one, other in (pair, pair[::-1])
    )
    text = f"Recovery turns the order of {turned} of {len(pairs)} pairs"
    if len(pairs) == 1:
        text = f"Recovery {'turns' if turned else 'keeps'} the order"
    moves = _moves(ranking)
    climber, faller = max(moves, key=lambda move: move[1]), min(moves, key=lambda move: move[1])
    parts = [
        f"{standing.name} {verb} {_places(ranking, standing)}"
        for (standing, places), verb in ((climber, "climbs"), (faller, "falls"))
        if turned and abs(places) >= _PLACES
    ]
    return Sentence(f"{text}{': ' if parts else ''}{listed(parts)}.")


def _moves(ranking: Ranking) -> list[tuple[Standing, int]]:
    """Return by how many places each contender climbed in recovery."""
    places = {standing.name: n for n, standing in enumerate(ranking.ordered(before))}
    return [(s, places[s.name] - n) for n, s in enumerate(ranking.ordered(after))]


def _places(ranking: Ranking, standing: Standing) -> str:
    first, then = (ranking.ordered(moment).index(standing) + 1 for moment in (before, after))
    return f"from {_ordinal(first)} to {_ordinal(then)}"


def unbeaten(ranking: Ranking) -> Sentence:
    """Name the contenders that no other beats at both moments."""
    best = [
        one
        for one in ranking.standings
        if not any(
            ranking.loss(other.before) < ranking.loss(one.before)
            and ranking.loss(other.after) < ranking.loss(one.after)
            for other in ranking.standings
        )
    ]
    others = len(ranking.standings) - len(best)
    if not others:
        return Sentence("No contender is worse than another at both moments.")
    rest = "the other is" if others == 1 else f"each of the other {others} is"
    names = listed([standing.name for standing in best]).replace(" and ", " or ")
    return Sentence(
        f"Both right after the cut and after recovery, none does better than {names}; {rest} worse "
        "than another contender at both moments."
    )


def kinds(ranking: Ranking) -> Sentence | None:
    """Name the best of every kind, where there are several."""
    best: dict[str, Standing] = {}
    for standing in ranking.standings:
        best.setdefault(standing.kind, standing)
    if len(best) < 2:
        return None
    figures = [
        f"{KIND_NAMES[kind]} {standing.name} ({ranking.text(standing.after)}, "
        f"{count(standing.row['nonzero_parameters'])} weights not zero)"
        for kind, standing in best.items()
    ]
    return Sentence(f"Best of each kind after recovery: {listed(figures)}.")


def adapters(ranking: Ranking) -> list[Sentence]:
    """Compare ways of recovery where one cut was recovered in two."""
    return [
        Sentence(
            f"The same cut, recovered in two ways: {one.name} {ranking.text(one.after)}, "
            f"{other.name} {ranking.text(other.after)}."
        )
        for one, other in combinations(ranking.standings, 2)
        if one.row["method"] == other.row["method"] and one.row["cut"] == other.row["cut"]
    ]


def costs(ranking: Ranking) -> Sentence:
    """Say what is cheapest and dearest to score and prune by."""
    order = sorted(ranking.standings, key=lambda standing: standing.seconds)
    cheap, dear = order[0], order[-1]
    memory = max(ranking.standings, key=lambda standing: float(standing.row["added_bytes"]))
    ratio = dear.seconds / cheap.seconds if cheap.seconds else 0
    times = f", {number(ratio, 1 if ratio < 10 else 0)} times as long" if ratio else ""
    return Sentence(
        f"Scoring and pruning take {duration(cheap.seconds)} with {cheap.name} and "
        f"{duration(dear.seconds)} with {dear.name}{times}; {memory.name} adds most memory, "
        f"{size_bytes(memory.row['added_bytes'])}."
    )


def missed_sizes(found: dict[str, Any], ranking: Ranking) -> Sentence | None:
    """Name the contenders that are not as large as the target, so not quite comparable."""
    wanted = found["target_parameters"]
    shares = [
        (standing.name, 100 * (standing.row["nonzero_parameters"] / wanted - 1))
        for standing in ranking.standings
    ]
    missed = [
        f"{name} has {percent(abs(share))} {'more' if share > 0 else 'fewer'}"
        for name, share in shares
        if abs(share) > _SIZE_MISSED
    ]
    if not missed:
        return None
    return Sentence(
        f"Not quite like for like: against the target’s {count(wanted)} weights, {listed(missed)}.",
        "warning",
    )


def hurt(ranking: Ranking) -> Sentence | None:
    """Name the contenders that recovery left worse than the cut had."""
    worse = [
        f"{standing.name} ({ranking.text(standing.before)} before, {ranking.text(standing.after)} "
        "after)"
        for standing in ranking.standings
        if ranking.loss(standing.after) > ranking.loss(standing.before) + LEVEL
    ]
    return Sentence(f"Recovery did harm to {listed(worse)}.", "warning") if worse else None


def _names(standings: list[Standing]) -> str:
    return listed([standing.name for standing in standings])


def _ordinal(place: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{'th' if place % 100 in (11, 12, 13) else ending}"
