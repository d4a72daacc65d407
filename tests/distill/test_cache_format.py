"""A cache gives back what was stored for a text, whatever rows and batches it comes in."""

import hashlib
import itertools
import shutil

import numpy as np
import pytest
import small_cache
from small_cache import LAYOUT, ROWS, fragments, plan_of, records_of

from nemo_bielik.distill.cache_format import Fragments, RecordLayout, TeacherCache
from nemo_bielik.distill.cache_plan import Plan, pieces_of
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.manifest import Manifest


@pytest.fixture
def directory(tmp_path):
    small_cache.write(tmp_path / "cache")
    return tmp_path / "cache"


def key(tokens, mask):
    content = b"".join(token.to_bytes(4, "little") for token in tokens) + bytes(mask)
    return hashlib.blake2b(content, digest_size=16).digest()


def test_fragments_end_with_the_last_token_that_counts():
    found = fragments(ROWS[:2])
    assert found.bounds.tolist() == [[0, 2], [3, 5], [8, 10]]
    assert found.positions.tolist() == [2, 2, 2]
    expected = [key([5, 6], [1, 1]), key([7, 8], [1, 1]), key([5, 6], [1, 1])]
    assert found.keys.view("u1").reshape(-1, 16).tolist() == [list(value) for value in expected]


def test_a_prompt_is_part_of_the_key_but_has_no_record():
    found = fragments(ROWS[2:])
    assert (found.bounds.tolist(), found.positions.tolist()) == ([[0, 4]], [2])
    assert bytes(found.keys.view("u1")) == key([4, 3, 4, 3], [0, 1, 0, 1])


def test_text_without_loss_has_no_fragments():
    found = fragments([([1, 2], [0, 1], [0, 0])])
    assert (len(found.keys), found.bounds.shape) == (0, (0, 2))


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_rows_in_any_order_and_batch_find_their_records(directory, order):
    rows = [ROWS[number] for number in order]
    assert np.array_equal(TeacherCache(directory).read(fragments(rows)), records_of(rows))


def test_what_comes_again_is_stored_once(directory):
    """Two fragments of the first row, none of the second, one of the third: by hand, in bytes."""
    sizes = [path.stat().st_size for path in sorted(directory.glob("*.bin"))]
    record = 2 * (2 + 4) + 2 * 4
    assert LAYOUT.bytes_per_token == record
    assert sizes == [4 * record + 2 * 4, 2 * record + 4]


def test_keys_with_zero_bytes_are_found(tmp_path):
    """numpy's byte strings hide zeros at their end."""
    keys = np.frombuffer(bytes(16) + bytes([1, *[0] * 15]) + bytes([*[0] * 15, 1]), dtype="S16")
    row = Fragments(np.array([[0, 1]] * 3), np.ones(3, int), keys)
    plan = Plan.make([pieces_of([(0, row)])], 1)
    small_cache.write(tmp_path / "cache")
    plan.save_index(tmp_path / "cache")
    stored = np.load(tmp_path / "cache" / "keys.npy").view("u1").reshape(-1, 16)
    assert stored.tolist() == sorted(stored.tolist())
    assert len(stored) == 3


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ((64, 32_128, "float16", (1.0,)), 64 * (2 + 2) + 4),
        ((64, 32_128, "float32", (1.0, 2.0)), 64 * (2 + 4) + 8),
        ((8, 70_000, "float16", (1.0,)), 8 * (4 + 2) + 4),
        ((48, 48, "float32", (1.0,)), 48 * (2 + 4)),
    ],
)
def test_bytes_of_a_token(settings, size):
    names = ("k", "vocab_size", "dtype", "temperatures")
    assert RecordLayout(**dict(zip(names, settings, strict=True))).bytes_per_token == size


def test_all_tokens_kept_need_no_remainder(tmp_path):
    layout = RecordLayout(k=40, vocab_size=40, dtype="float16", temperatures=(1.0,))
    small_cache.write(tmp_path / "whole", layout=layout)
    cache = TeacherCache(tmp_path / "whole")
    cache.require(3.7, 40)
    assert np.array_equal(cache.read(fragments(ROWS)), records_of(ROWS, layout))


def test_a_plan_knows_what_is_missing(tmp_path):
    plan = small_cache.write(tmp_path / "cache", rows_per_shard=1)
    assert plan.shards.tolist() == [[4, 2], [2, 1]]
    assert plan.missing(tmp_path / "cache", LAYOUT) == []
    torn = tmp_path / "cache" / "shard-00000.bin"
    torn.write_bytes(torn.read_bytes()[:-1])
    (tmp_path / "cache" / "shard-00001.bin").unlink()
    assert plan.missing(tmp_path / "cache", LAYOUT) == [0, 1]


def test_shards_hold_so_many_rows_with_something_new():
    plan = plan_of([ROWS[1], *ROWS, ROWS[2]], 2)
    assert plan.pieces["row"].tolist() == [0, 1, 3]
    assert plan.pieces["shard"].tolist() == [0, 0, 1]
    assert plan.pieces["fragment"].tolist() == [0, 1, 0]
    assert plan.pieces["offset"].tolist() == [0, 2, 0]


def test_text_without_loss_makes_no_plan():
    with pytest.raises(DataError, match="no token of the training text carries loss"):
        plan_of([([1, 2], [0, 1], [0, 0])], 1)


def refusal(action, kind=DataError):
    with pytest.raises(kind) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        ([5, 7], [0, 1], [1, 1]),  # another token
        ([5, 6], [0, 1], [0, 1]),  # another mask
        ([5], [0], [1]),  # the beginning of a document that was longer
    ],
)
def test_text_that_is_not_in_the_cache_is_told_with_what_is(directory, row):
    cache, found = TeacherCache(directory), fragments([ROWS[0], row])
    assert cache.missing(found).tolist() == [2]
    message = refusal(lambda: cache.read(found))
    assert f"{directory}: holds no teacher for 1 fragments" in message
    assert "1,000 sequences of tokens/recovery with sequence_length=5 and seed=3" in message
    assert "bielik cache-teacher" in message


def test_a_temperature_without_a_remainder_is_refused(directory):
    cache = TeacherCache(directory)
    cache.require(2.0, 40)
    message = refusal(lambda: cache.require(3.0, 40), ConfigError)
    assert message.startswith(f"temperature is 3; {directory} holds the remainder for 1, 2 only")
    assert message.endswith("temperatures=3")


def test_another_vocabulary_is_refused(directory):
    message = refusal(lambda: TeacherCache(directory).require(1.0, 48))
    assert "a vocabulary of 40, but the student's is 48" in message


def test_a_torn_shard_is_told_at_opening(directory):
    path = directory / "shard-00001.bin"
    path.write_bytes(path.read_bytes()[:-3])
    message = refusal(lambda: TeacherCache(directory))
    assert message.startswith(f"{path}: holds 41 of 44 bytes")
    path.unlink()
    assert "holds 0 of 44 bytes" in refusal(lambda: TeacherCache(directory))


@pytest.mark.parametrize("place", [0, 25, -1])
def test_a_changed_byte_is_told_when_it_is_read(directory, place):
    path = directory / "shard-00001.bin"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    cache = TeacherCache(directory)
    assert np.array_equal(cache.read(fragments(ROWS[:2])), records_of(ROWS[:2]))
    assert refusal(lambda: cache.read(fragments(ROWS))).startswith(f"{path}: damaged")


@pytest.mark.parametrize("name", ["keys.npy", "places.npy", "shards.npy"])
def test_a_damaged_index_is_told_at_opening(directory, name):
    content = bytearray((directory / name).read_bytes())
    content[-1] ^= 1
    (directory / name).write_bytes(content)
    assert f"{directory / name}: missing or damaged" in refusal(lambda: TeacherCache(directory))
    (directory / name).unlink()
    assert f"{directory / name}: missing or damaged" in refusal(lambda: TeacherCache(directory))


def test_other_directories_are_no_caches(directory, tmp_path):
    assert "no such manifest" in refusal(lambda: TeacherCache(tmp_path))
    shutil.copytree(directory, tmp_path / "other")
    Manifest(stage="tokenize", config={}).save(tmp_path / "other")
    assert "made by stage 'tokenize'" in refusal(lambda: TeacherCache(tmp_path / "other"))
