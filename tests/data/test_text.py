"""Documents out of every format, streamed, and each way in which a text can be unreadable."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.data.text import read_documents, read_records, text_bytes, text_fingerprint
from nemo_bielik.errors import DataError

DOCUMENTS = ["Zażółć gęślą jaźń.", "Ala ma kota.\nKot ma Alę.", "  wcięcie, €, 🦊"]


def write_jsonl(path: Path, documents: list[str] = DOCUMENTS) -> Path:
    lines = [json.dumps({"text": text, "id": n}) for n, text in enumerate(documents)]
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_documents(path))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_give_their_texts_in_order(tmp_path, name):
    path = write_jsonl(tmp_path / name)
    read = 0

    def progress(size: int) -> None:
        nonlocal read
        read += size

    assert list(read_documents(path, progress=progress)) == DOCUMENTS
    assert read == text_bytes([path]) == path.stat().st_size


def test_blank_lines_part_the_documents_of_plain_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffpierwszy\r\njeszcze on\r\n\r\n \t\n\n  drugi\n".encode())
    assert list(read_documents(path)) == ["pierwszy\njeszcze on", "  drugi"]


def test_a_separator_keeps_paragraphs_together(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("pierwszy\n\nakapit\n---\ndrugi\n---\n---\n", encoding="utf-8")
    assert list(read_documents(path, separator="---")) == ["pierwszy\n\nakapit", "drugi"]


def test_a_dataset_saved_by_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    directory = tmp_path / "saved"
    dataset = datasets.Dataset.from_dict({"text": DOCUMENTS * 700, "id": range(2100)})
    dataset.save_to_disk(directory, num_shards=3)
    assert list(read_documents(directory)) == DOCUMENTS * 700


def test_parquet_and_both_arrow_formats(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.feather
    import pyarrow.parquet

    table = arrow.table({"id": [0, 1, 2], "text": DOCUMENTS})
    pyarrow.parquet.write_table(table, tmp_path / "0.parquet")
    pyarrow.feather.write_feather(table, str(tmp_path / "1.arrow"), compression="uncompressed")
    stream = str(tmp_path / "2.arrow")
    with arrow.OSFile(stream, "wb") as sink, arrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert list(read_documents(tmp_path)) == DOCUMENTS * 3
    assert list(read_documents(tmp_path / "0.parquet")) == DOCUMENTS


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "a"', "line 2 is not JSON"),
        ('{"treść": "a"}', 'line 2 has no "text"'),
        ("[1]", "line 2 is list; it must be one JSON object"),
        ('{"text": 7}', 'line 2: "text" is int; it must be a string'),
        ('{"text": null}', 'line 2: "text" is NoneType'),
        ('{"text": "\\ud800"}', "half a surrogate pair"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, expected):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "dobra"}}\n{line}\n', encoding="utf-8")
    assert expected in refusal(path) and str(path) in refusal(path)


def test_what_is_not_utf8_is_named_by_line_and_column(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"dobra\n" + "zażółć\n".encode("iso-8859-2"))
    assert "line 2 is not UTF-8 (byte 0xbf at column 3)" in refusal(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.jsonl.gz"])
@pytest.mark.parametrize("content", [b"", b"\n \n\n"])
def test_an_empty_corpus_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert "holds no documents" in refusal(path)


def test_missing_and_unknown_paths_say_what_is_allowed(tmp_path):
    assert "no such text; expected .jsonl" in refusal(tmp_path / "a.jsonl")
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    assert "unknown text format '.pdf'; expected .jsonl" in refusal(tmp_path / "a.pdf")
    (tmp_path / "empty").mkdir()
    assert "holds no .parquet or .arrow" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("cut", [10, 40])
def test_a_truncated_gzip_is_refused(tmp_path, cut):
    path = write_jsonl(tmp_path / "a.jsonl.gz")
    path.write_bytes(path.read_bytes()[:-cut])
    assert "damaged gzip" in refusal(path)


def test_a_gzip_that_is_none_is_refused(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(b"plain text")
    assert "damaged gzip" in refusal(path)


def test_damaged_tables_are_refused(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    assert "damaged .parquet file" in refusal(tmp_path / "a.parquet")
    (tmp_path / "a.arrow").write_bytes(b"")
    assert "damaged .arrow file" in refusal(tmp_path / "a.arrow")
    pyarrow.parquet.write_table(arrow.table({"treść": ["a"]}), tmp_path / "b.parquet")
    assert 'has no column "text"; its columns are treść' in refusal(tmp_path / "b.parquet")
    pyarrow.parquet.write_table(arrow.table({"text": ["a", None]}), tmp_path / "c.parquet")
    assert 'row 2: "text" is NoneType' in refusal(tmp_path / "c.parquet")


def test_damaged_saved_datasets_are_refused(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "dataset_dict.json").write_text("{}")
    assert f"name one, such as {tmp_path / 'train'}" in refusal(tmp_path)
    (tmp_path / "train" / "state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')
    assert "lacks x.arrow" in refusal(tmp_path / "train")
    (tmp_path / "train" / "state.json").write_text("[]")
    assert "is not a saved dataset's state" in refusal(tmp_path / "train")


def test_records_come_with_their_place(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n', encoding="utf-8")
    found: list[tuple[str, dict[str, Any]]] = list(read_records(path))
    assert found == [(f"{path}: line 1", {"a": 1}), (f"{path}: line 3", {"a": 2})]


def test_the_fingerprint_follows_the_content(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl")
    before = text_fingerprint(path)
    assert text_fingerprint(write_jsonl(tmp_path / "b.jsonl")) == before
    write_jsonl(path, DOCUMENTS[:1])
    assert text_fingerprint(path) != before
