"""Directories of tokens: what they are known by, and what is none."""

import pytest

from nemo_bielik.data.sources import end_of_document, tokens_fingerprint
from nemo_bielik.errors import DataError


def test_tokens_are_known_by_what_they_were_made_from(write_tokens, tmp_path):
    first = tokens_fingerprint(write_tokens(tmp_path / "first"))
    assert tokens_fingerprint(write_tokens(tmp_path / "again", wall_seconds=9.0)) == first
    other = write_tokens(tmp_path / "other", config={"inputs": ["b"]})
    assert tokens_fingerprint(other) != first


def test_a_directory_without_tokens_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"holds no tokens\.idx; make it with `bielik tokenize`"):
        tokens_fingerprint(tmp_path)
    (tmp_path / "tokens.idx").touch()
    with pytest.raises(DataError, match="no such manifest"):
        tokens_fingerprint(tmp_path)


def test_the_token_that_closes_documents_is_read_from_the_manifest(write_tokens, tmp_path):
    tokens = write_tokens(tmp_path / "tokens", results={"end_of_document": 31})
    assert end_of_document(tokens) == 31
