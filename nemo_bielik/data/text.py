"""Text as a stream of documents, whatever holds it.

* ``.jsonl``, ``.jsonl.gz``: one JSON object a line with a string ``"text"``.
* ``.txt``, ``.txt.gz``: documents separated by blank lines, or by lines equal to a given separator.
* ``.parquet``, ``.arrow`` and directories of them, such as ``datasets.save_to_disk`` makes: the
  rows of their ``text`` column.

Everything streams; what cannot be read raises `DataError` with the file and the line or row.
"""

import gzip
import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, cast

from nemo_bielik.errors import DataError
from nemo_bielik.files import file_sha256, value_sha256

#: Called with the number of bytes read from disk since the last call.
Progress = Callable[[int], object]

_FORMATS = ".jsonl, .txt (also .gz), .parquet, .arrow, or a saved dataset's directory"
_TABLES = (".parquet", ".arrow")
_BATCH_ROWS = 1024


def read_documents(
    path: Path, separator: str | None = None, progress: Progress | None = None
) -> Iterator[str]:
    """Yield the documents of one file or saved dataset, in order.

    `separator` is the line between two documents of a ``.txt`` (None: any blank line). A
    ``.txt`` never yields an empty document; other formats yield what they hold. Raises `DataError`
    for a path that is missing, of no known format, without a document, or damaged.
    """
    documents = _documents(path, separator or "", progress or _ignore)
    empty = True
    for text in documents:
        empty = False
        yield text
    if empty:
        raise DataError(f"{path}: holds no documents; give a text that is not empty")


def read_records(
    path: Path, progress: Progress | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (``"FILE: line N"``, object) for every line of a JSON-lines file that is not blank.

    Raises `DataError` for a missing or damaged file or a line that is not a JSON object.
    """
    for where, line in read_lines(path, progress):
        yield where, parse_record(where, line)


def read_lines(path: Path, progress: Progress | None = None) -> Iterator[tuple[str, str]]:
    """Yield (``"FILE: line N"``, line) for every line that is not blank, whatever it holds.

    Bytes that are not UTF-8 become half surrogate pairs, which `parse_record` refuses.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected JSON lines")
    for number, line in _lines(path, progress or _ignore):
        if line.strip():
            yield f"{path}: line {number}", line


def parse_record(where: str, line: str) -> dict[str, Any]:
    """Return the object of one JSON line; raise `DataError` naming `where` if it is none."""
    _require_utf8(where, line)
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error})") from None
    if not isinstance(record, dict):
        raise DataError(f"{where} is {type(record).__name__}; it must be one JSON object")
    return record


def text_files(path: Path) -> list[Path]:
    """Return the files that hold the text of `path`; raise `DataError` if there are none."""
    if path.is_dir():
        return _dataset_files(path)
    if not path.is_file():
        raise DataError(f"{path}: no such text; expected {_FORMATS}")
    if path.name.removesuffix(".gz").endswith((".jsonl", ".txt")) or path.suffix in _TABLES:
        return [path]
    raise DataError(f"{path}: unknown text format {path.suffix!r}; expected {_FORMATS}")


def text_bytes(paths: Iterable[Path]) -> int:
    """Return the bytes on disk of the text in `paths`: what `Progress` adds up to."""
    return sum(file.stat().st_size for path in paths for file in text_files(path))


def text_fingerprint(path: Path) -> str:
    """Return the SHA-256 of a text file, or of the names and contents of a dataset's files."""
    files = text_files(path)
    if files == [path]:
        return file_sha256(path)
    return value_sha256({file.name: file_sha256(file) for file in files})


def _ignore(_: int) -> None:
    pass


def _documents(path: Path, separator: str, progress: Progress) -> Iterator[str]:
    for file in text_files(path):
        if file.suffix in _TABLES:
            yield from _table_rows(file, progress)
        elif file.name.removesuffix(".gz").endswith(".jsonl"):
            yield from _json_lines(file, progress)
        else:
            yield from _plain_text(file, separator, progress)


def _lines(path: Path, progress: Progress) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line without its end); a byte order mark is dropped.

    `_require_utf8` tells whether a line's bytes were text.
    """
    with path.open("rb") as raw:
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
        seen = 0
        try:
            for number, line in enumerate(stream, start=1):
                text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
                yield number, text.removeprefix("\ufeff") if number == 1 else text
                at = raw.tell()
                progress(at - seen)
                seen = at
        except (EOFError, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: damaged gzip file ({error}); copy it again") from None


def _require_utf8(where: str, line: str) -> None:
    if line.isascii():
        return
    given = line.encode("utf-8", "surrogateescape")
    try:
        given.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not UTF-8 (byte 0x{given[error.start]:02x} at column {error.start + 1}); "
            "convert it with 'iconv -f ENCODING -t UTF-8'"
        ) from None


def _json_lines(path: Path, progress: Progress) -> Iterator[str]:
    for where, record in read_records(path, progress):
        if "text" not in record:
            raise DataError(f'{where} has no "text"; expected {{"text": "…"}}')
        yield _checked(record["text"], where)


def _checked(text: object, where: str) -> str:
    if not isinstance(text, str):
        raise DataError(f'{where}: "text" is {type(text).__name__}; it must be a string')
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f'{where}: "text" holds half a surrogate pair; it is not Unicode') from None
    return text


def _plain_text(path: Path, separator: str, progress: Progress) -> Iterator[str]:
    document: list[str] = []
    for number, line in _lines(path, progress):
        _require_utf8(f"{path}: line {number}", line)
        if line.strip() != separator:
            document.append(line)
        elif document:
            yield from _joined(document)
            document = []
    yield from _joined(document)


def _joined(lines: list[str]) -> Iterator[str]:
    text = "\n".join(lines)
    if text.strip():
        yield text


def _dataset_files(directory: Path) -> list[Path]:
    if (directory / "dataset_dict.json").is_file():
        splits = sorted(child.name for child in directory.iterdir() if child.is_dir())
        raise DataError(
            f"{directory}: holds several splits ({', '.join(splits)}); "
            f"name one, such as {directory / splits[0] if splits else directory / 'train'}"
        )
    state = directory / "state.json"
    if state.is_file():
        files = _saved_files(state)
    else:
        files = sorted(file for file in directory.iterdir() if file.suffix in _TABLES)
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        lack = f"lacks {missing[0]}" if missing else "holds no .parquet or .arrow files"
        raise DataError(f"{directory}: {lack}; expected {_FORMATS}")
    return files


def _saved_files(state: Path) -> list[Path]:
    """Return the files of a saved dataset in the order of its rows."""
    try:
        entries = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        return [state.parent / entry["filename"] for entry in entries]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{state}: is not a saved dataset's state; save it again") from None


def _table_rows(path: Path, progress: Progress) -> Iterator[str]:
    try:
        arrow, parquet = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))
    except ModuleNotFoundError:
        raise DataError(f"{path}: reading it needs pyarrow; install nemo-bielik[engine]") from None
    row = 0
    try:
        batches = _parquet(parquet, path) if path.suffix == ".parquet" else _arrow(arrow, path)
        for texts, share in batches:
            for text in texts:
                row += 1
                yield _checked(text, f"{path}: row {row}")
            progress(share)
    except (arrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: damaged {path.suffix} file ({reason}); copy it again") from None


def _parquet(parquet: ModuleType, path: Path) -> Iterator[tuple[list[object], int]]:
    """Yield (texts, bytes that count as read) batch by batch; the table is never read whole."""
    table = parquet.ParquetFile(path)
    _require_text_column(table.schema_arrow.names, path)
    row_bytes = path.stat().st_size / max(table.metadata.num_rows, 1)
    for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=["text"]):
        yield batch.column(0).to_pylist(), round(row_bytes * len(batch))


def _arrow(arrow: ModuleType, path: Path) -> Iterator[tuple[list[object], int]]:
    """As `_parquet`, for Arrow's file format and for the stream that `datasets` writes."""
    with arrow.memory_map(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        opened = arrow.ipc.open_file(source) if is_file else arrow.ipc.open_stream(source)
        _require_text_column(opened.schema.names, path)
        batches = map(opened.get_batch, range(opened.num_record_batches)) if is_file else opened
        for batch in batches:
            yield batch.column("text").to_pylist(), batch.nbytes


def _require_text_column(names: list[str], path: Path) -> None:
    if "text" not in names:
        raise DataError(f'{path}: has no column "text"; its columns are {", ".join(names)}')
