"""The token files are Megatron's: the same bytes as its builder, taken by its reader."""

import numpy as np
import pytest

from nemo_bielik.data.indexed import TokenWriter, token_dtype, token_stats
from nemo_bielik.errors import DataError

DOCUMENTS = [[1, 7, 2], [1, 2], [1, 260, 261, 262, 2]]


def write(directory, vocab_size=300, documents=DOCUMENTS):
    directory.mkdir(exist_ok=True)
    with TokenWriter(directory, token_dtype(vocab_size)) as writer:
        for some in (documents[:2], documents[2:]):
            flat = np.array([token for document in some for token in document], dtype=np.int64)
            writer.add(flat, np.array([len(document) for document in some], dtype=np.int32))
        return writer.finish()


@pytest.mark.parametrize("vocab_size", [300, 65_499, 65_500, 128_000])
def test_the_bytes_are_those_of_megatrons_builder(tmp_path, vocab_size):
    pytest.importorskip("megatron.core")
    from megatron.core.datasets import indexed_dataset
    from torch import tensor

    assert write(tmp_path / "ours", vocab_size) == (3, 10)
    dtype = indexed_dataset.DType.optimal_dtype(vocab_size)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    builder = indexed_dataset.IndexedDatasetBuilder(str(theirs / "tokens.bin"), dtype=dtype)
    for document in DOCUMENTS:
        builder.add_document(tensor(document), [len(document)])
    builder.finalize(str(theirs / "tokens.idx"))
    for name in ("tokens.bin", "tokens.idx"):
        assert (tmp_path / "ours" / name).read_bytes() == (theirs / name).read_bytes()
    read = indexed_dataset.IndexedDataset(str(tmp_path / "ours" / "tokens"))
    assert [document.tolist() for document in read] == DOCUMENTS


def test_stats_count_documents_and_tokens(tmp_path):
    write(tmp_path)
    assert token_stats(tmp_path) == (3, 10)


def test_no_documents_are_a_valid_index(tmp_path):
    assert write(tmp_path, documents=[]) == (0, 0)
    assert token_stats(tmp_path) == (0, 0)


def test_missing_or_damaged_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no tokens"):
        token_stats(tmp_path)
    write(tmp_path)
    index, tokens = tmp_path / "tokens.idx", tmp_path / "tokens.bin"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(DataError, match="does not hold the 10 tokens"):
        token_stats(tmp_path)
    whole = index.read_bytes()
    for cut in (1, 40):
        index.write_bytes(whole[:-cut])
        with pytest.raises(DataError, match="truncated"):
            token_stats(tmp_path)
    for content in (b"", b"no index at all" * 10):
        index.write_bytes(content)
        with pytest.raises(DataError, match="is not a token index"):
            token_stats(tmp_path)
