"""Sentences follow the figures, whoever wins."""

import re
from typing import Any

import pytest

from nemo_bielik.compare.ranking import after, before, rank
from nemo_bielik.compare.story import headline, tell


def told(found: dict[str, Any]) -> str:
    text = " ".join(sentence.text for sentence in tell(found, rank(found)))
    return text.replace("\N{NO-BREAK SPACE}", " ")


def only(found: dict[str, Any], **shares: tuple[float, float]) -> dict[str, Any]:
    """Keep the contenders named, at shares right after the cut and recovered."""
    rows = {row["name"]: row for row in found["contenders"]}
    found["contenders"] = [rows[name.replace("_", "-")] for name in shares]
    for row, (first, then) in zip(found["contenders"], shares.values(), strict=True):
        row["pruned"]["share_percent"], row["recovered"]["share_percent"] = first, then
    return found


@pytest.mark.parametrize(
    ("shares", "line"),
    [
        (
            {"wanda": (80.0, 90.0), "minitron": (60.0, 95.0)},
            "wanda keeps most right after the cut; after recovery minitron does",
        ),
        (
            {"wanda": (80.0, 97.0), "minitron": (60.0, 95.0)},
            "wanda keeps most right after the cut, and after recovery",
        ),
        (
            {"wanda": (80.0, 95.2), "minitron": (60.0, 95.0)},
            "wanda keeps most right after the cut; after recovery wanda and minitron do",
        ),
        (
            {"wanda": (80.0, 95.2), "minitron": (79.5, 95.0)},
            "wanda and minitron keep most right after the cut, and after recovery",
        ),
        (
            {name: (50.0, 95.0 if name == "wanda" else 90.0) for name in (
                "wanda", "minitron", "shortgpt", "magnitude")},
            "4 of 4 contenders are level right after the cut; after recovery wanda keeps most",
        ),
        (
            {name: (60.0 if name == "wanda" else 50.0, 90.0) for name in (
                "wanda", "minitron", "shortgpt", "magnitude")},
            "wanda keeps most right after the cut; after recovery 4 of 4 are level",
        ),
    ],
)  # fmt: skip
def test_the_headline_names_the_best_at_both_moments(
    found: dict[str, Any], shares: dict[str, tuple[float, float]], line: str
) -> None:
    assert headline(rank(only(found, **shares))) == line


def test_turned_pairs_are_counted_and_movers_named(found: dict[str, Any]) -> None:
    """Order 80 > 70 > 60 becomes 90 < 92 < 95: all three pairs turn."""
    only(found, wanda=(80.0, 90.0), shortgpt=(70.0, 92.0), minitron=(60.0, 95.0))
    assert (
        "Recovery turns the order of 3 of 3 pairs: minitron climbs from 3rd to 1st and "
        "wanda falls from 1st to 3rd." in told(found)
    )


def test_differences_within_a_point_turn_no_pair(found: dict[str, Any]) -> None:
    only(found, wanda=(80.5, 90.0), shortgpt=(80.0, 95.0), minitron=(60.0, 89.5))
    assert "Recovery turns the order of 0 of 3 pairs." in told(found)


def test_the_worse_at_both_moments_are_counted(found: dict[str, Any]) -> None:
    only(found, wanda=(80.0, 90.0), shortgpt=(70.0, 85.0), minitron=(60.0, 95.0))
    assert "none does better than minitron or wanda; the other is worse" in told(found)
    only(found, wanda=(80.0, 90.0), minitron=(60.0, 95.0))
    assert "No contender is worse than another at both moments." in told(found)


def test_another_size_than_the_targets_is_a_warning(found: dict[str, Any]) -> None:
    only(found, wanda=(80.0, 90.0), minitron=(60.0, 95.0))
    assert "like for like" not in told(found)
    found["contenders"][0]["nonzero_parameters"] = round(1.05 * found["target_parameters"])
    found["contenders"][1]["nonzero_parameters"] = round(0.98 * found["target_parameters"])
    assert "minitron has 2.0 % fewer and wanda has 5.0 % more" in told(found)
    tones = {sentence.text[:9]: sentence.tone for sentence in tell(found, rank(found))}
    assert tones["Not quite"] == "warning"


def test_recovery_that_harms_is_told(found: dict[str, Any]) -> None:
    only(found, wanda=(80.0, 78.0), minitron=(60.0, 59.5))
    assert "Recovery did harm to wanda (80.0 % before, 78.0 % after)." in told(found)


def test_one_cut_recovered_in_two_ways_is_compared(found: dict[str, Any]) -> None:
    sentences = re.findall(r"recovered in two ways: ([^.]*\.\d %), ([^.]*\.\d %)", told(found))
    assert len(sentences) == 1
    assert [words.split()[0] for words in sentences[0]] == ["llm-pruner", "llm-pruner@lora"]


def test_costs_name_both_ends(found: dict[str, Any]) -> None:
    only(found, wanda=(80.0, 90.0), minitron=(60.0, 95.0))
    for row, seconds, size in zip(found["contenders"], (0.5, 20.0), (3e9, 1e6), strict=True):
        row |= {"score_seconds": 0.0, "prune_seconds": seconds, "added_bytes": size}
    assert (
        "take 0.5 s with wanda and 20.0 s with minitron, 40 times as long; wanda adds most "
        "memory, 3.00 GB." in told(found)
    )


def test_without_tasks_less_perplexity_is_better(found_without_tasks: dict[str, Any]) -> None:
    ranking = rank(found_without_tasks)
    rows = found_without_tasks["contenders"]
    for moment, stage in ((before, "pruned"), (after, "recovered")):
        order = [standing.name for standing in ranking.ordered(moment)]
        assert order == [r["name"] for r in sorted(rows, key=lambda r: r[stage]["perplexity"])]
    assert headline(ranking).startswith("sparsegpt stays nearest to the original")
