"""Documents fall to disjoint parts by their own text, whatever file, place or company they have."""

import json
import math

import pytest

from nemo_bielik.data.split import (
    WITH_GIVEN_TEACHER,
    WITH_TEACHER_TRAINING,
    SplitConfig,
    split_documents,
)
from nemo_bielik.errors import DataError, StorageError

DOCUMENTS = [f"Dokument {n}: zażółć gęślą jaźń." for n in range(2000)]
HALVES = {"left": 0.5, "right": 0.5}


def write(path, documents):
    lines = [json.dumps({"text": document}) for document in documents]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def split(tmp_path):
    """Return a function that splits lists of documents, one file each, and reads the parts."""

    def run(*files, shares=HALVES, name="output"):
        inputs = [write(tmp_path / f"{name}-{n}.jsonl", file) for n, file in enumerate(files)]
        output = tmp_path / name
        split_documents(SplitConfig(inputs=inputs, output=output, shares=dict(shares)))
        return {
            path.stem: [json.loads(line)["text"] for line in path.open(encoding="utf-8")]
            for path in output.glob("*.jsonl")
        }

    return run


@pytest.mark.parametrize("shares", [WITH_TEACHER_TRAINING, WITH_GIVEN_TEACHER])
def test_every_document_is_in_one_part(split, shares):
    parts = split(DOCUMENTS, shares=shares)
    assert parts.keys() == shares.keys()
    assert sorted(text for part in parts.values() for text in part) == sorted(DOCUMENTS)
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("shares", [WITH_TEACHER_TRAINING, {"most": 3, "rest": 1}])
def test_parts_have_their_shares(split, shares):
    """Within five standard deviations of a fair draw; shares need not add up to one."""
    parts, total = split(DOCUMENTS, shares=shares), sum(shares.values())
    for part, share in shares.items():
        chance = share / total
        spread = math.sqrt(len(DOCUMENTS) * chance * (1 - chance))
        assert abs(len(parts[part]) - len(DOCUMENTS) * chance) < 5 * spread


def test_equal_documents_never_meet_across_parts(split):
    parts = split(DOCUMENTS[:50], DOCUMENTS[:50] * 2)
    assert set(parts["left"]) & set(parts["right"]) == set()
    assert {text: parts["left"].count(text) for text in parts["left"]} == dict.fromkeys(
        parts["left"], 3
    )


def test_a_part_depends_on_the_text_alone(split):
    one = split(DOCUMENTS[:60], name="one")
    two = split(DOCUMENTS[59:29:-1], DOCUMENTS[30::-1], DOCUMENTS[100:200], name="two")
    for part in HALVES:
        assert set(one[part]) <= set(two[part])


def test_documents_keep_their_order_and_their_letters(split):
    parts = split(DOCUMENTS)
    for part in parts.values():
        assert part == [text for text in DOCUMENTS if text in set(part)]


def test_a_part_that_stays_empty_is_one_line_and_no_output(split, tmp_path):
    with pytest.raises(DataError, match=r"too few documents to split: none fell to (left|right)"):
        split(DOCUMENTS[:1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output-0.jsonl"]


def test_a_finished_split_stands(split, tmp_path):
    split(DOCUMENTS)
    before = (tmp_path / "output" / "left.jsonl").stat().st_mtime_ns
    split(DOCUMENTS)
    assert (tmp_path / "output" / "left.jsonl").stat().st_mtime_ns == before
    with pytest.raises(StorageError, match="setting shares"):
        split(DOCUMENTS, shares={"left": 0.9, "right": 0.1})
    with pytest.raises(StorageError, match="input "):
        split(DOCUMENTS[:-1])


def test_a_missing_text_is_named(tmp_path):
    config = SplitConfig(inputs=[tmp_path / "nowhere.txt"], output=tmp_path / "output")
    with pytest.raises(DataError, match=r"nowhere\.txt: no such text"):
        split_documents(config)
    assert list(tmp_path.iterdir()) == []
