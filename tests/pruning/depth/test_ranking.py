"""What is drawn from what, and agreement by hand."""

import pytest

from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.choices import Choice
from nemo_bielik.pruning.depth.ranking import Cut, DepthRanking, Stability, overlap
from nemo_bielik.pruning.depth.samples import Sample, halve, split_documents
from nemo_bielik.pruning.depth.tables import tables


def items(*groups: str) -> list[Choice]:
    return [Choice(f"line {n}", group, ("x", "y"), ("x", "y"), 0) for n, group in enumerate(groups)]


def cuts(*sets: list[int]) -> list[Cut]:
    return [Cut(dropped=dropped, measured={"perplexity": 2.0}) for dropped in sets]


@pytest.fixture
def ranking():
    return DepthRanking(
        model="m",
        num_layers=5,
        whole={"perplexity": 1.5, "fact_accuracy": 0.875},
        ways={
            "block-influence": cuts([3], [3, 1], [3, 1, 0]),
            "rescored": cuts([3], [3, 2], [3, 2, 1]),
            "contiguous": cuts([4], [1, 2], [1, 2, 3]),
        },
        chosen_by={"windows": 2},
        judged_on={"windows": 1},
        stability=[
            Stability(
                way="rescored",
                size=2,
                available=9,
                choices=[
                    [[0], [0, 1], [0, 1, 2]],
                    [[0], [0, 2], [0, 2, 1]],
                    [[1], [1, 0], [1, 0, 4]],
                ],
            ),
            Stability(way="rescored", size=8, available=9, choices=[]),
        ],
    )


def test_shares_in_common_by_hand(ranking):
    assert overlap([4, 1, 2], [2, 3, 4]) == pytest.approx(2 / 3)
    agreement = ranking.agreement()
    assert agreement[("block-influence", "rescored")] == pytest.approx([1, 1 / 2, 2 / 3])
    assert agreement[("block-influence", "contiguous")] == pytest.approx([0, 1 / 2, 2 / 3])
    assert agreement[("rescored", "contiguous")] == pytest.approx([0, 1 / 2, 1])
    pairs_by_hand = [[1, 0, 0], [1 / 2, 1, 1 / 2], [1, 2 / 3, 2 / 3]]
    assert ranking.stability[0].overlaps() == pytest.approx([sum(p) / 3 for p in pairs_by_hand])


def test_a_ranking_comes_back_from_disk(ranking, tmp_path):
    path = tmp_path / "depth.json"
    ranking.save(path)
    assert DepthRanking.load(path) == ranking
    path.write_text('{"version": 1, "ways": {}}')
    with pytest.raises(DataError, match=r"depth\.json: is not a ranking of layers"):
        DepthRanking.load(path)


def test_tables_show_every_cut_and_what_is_missing(ranking):
    lines = tables(ranking)
    cells = [line.split() for line in lines]
    assert ["(whole", "model)", "0", "1.500", "87.5", "%"] in cells
    assert ["contiguous", "3", "2.000", "1,", "2,", "3"] in cells
    assert ["block-influence,", "rescored", "0.72", "1.00", "0.50", "0.67"] in cells
    assert ["(by", "chance)", "0.40", "0.20", "0.40", "0.60"] in cells
    assert ["rescored", "2", "3", "0.59", "0.33", "0.67", "0.78"] in cells
    assert ["rescored", "8", "too", "few:", "9", "to", "draw", "from"] in cells


def test_samples_of_one_size_share_nothing():
    pool = Sample([[n, n] for n in range(10)], {"fact": items("a", "a", "b", "b", "b", "a")})
    three = [pool.draw(3, number, seed=7) for number in range(3)]
    starts = [window[0] for sample in three for window in sample.windows]
    assert len(set(starts)) == 9
    wheres = [item.where for sample in three for item in sample.suites["fact"]]
    assert len(set(wheres)) == len(wheres) == 6  # the third has none left
    assert pool.draw(3, 1, seed=7) == three[1]
    assert [w[0] for w in pool.draw(3, 0, seed=8).windows] != starts[:3]
    assert sorted(w[0] for w in pool.draw(10, 0, seed=7).windows) == list(range(10))


def test_half_of_every_kind_chooses():
    choosing, judging = halve(items("a", "b", "a", "a", "b", "c"), None)
    assert [item.where for item in choosing] == ["line 0", "line 1"]
    assert [item.where for item in judging] == ["line 2", "line 3", "line 4", "line 5"]


def test_too_few_items_to_halve(tmp_path):
    with pytest.raises(DataError, match=r"f\.jsonl: too few items to halve, 2 in all"):
        halve(items("a", "b"), tmp_path / "f.jsonl")


def test_no_document_is_chosen_by_and_judged_on(tmp_path):
    (tmp_path / "texts.txt").write_text("a\n\nb\n\na\n")
    (tmp_path / "held.txt").write_text("c\n\nb\n\nc\n")
    found = split_documents([tmp_path / "texts.txt"], [tmp_path / "held.txt"], None)
    assert found == (["a", "b"], ["c", "c"])
    with pytest.raises(DataError, match=r"texts\.txt: every document is in texts too"):
        split_documents([tmp_path / "texts.txt"], [tmp_path / "texts.txt"], None)


def test_sizes_of_a_sample():
    sample = Sample([[1, 2, 3], [4, 5]], {"fact": items("a", "a"), "minimal_pairs": items("a")})
    assert (sample.tokens, sample.sentences, sample.fewest_items) == (3, 6, 1)
    assert Sample([], {}).fewest_items == 0
