"""Datasets in their upstream columns, a small random model, and a server that speaks OpenAI's API.

The rows are made up; only their columns and labels are the datasets' own (see each `schema` in
`nemo_bielik.evaluate.suites.catalog`).
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.checkpoint import copy_tokenizer
from nemo_bielik.data.tokenizer import TokenizerConfig, train_tokenizer

if str(Path(__file__).parent) not in sys.path:  # the cases of these tests can be imported
    sys.path.insert(0, str(Path(__file__).parent))

TEXT = (
    "Ala ma kota. Pytanie: czy kot ma Alę? Odpowiedź: nie, tak. Fragment tekstu, zażółć gęślą jaźń."
)


@pytest.fixture(scope="session")
def suite_model(make_model: Callable[..., Path], tmp_path_factory: Any) -> Path:
    """A random Mistral of 4096 positions with a byte-level tokenizer that puts <s> first."""
    text = tmp_path_factory.mktemp("suite-text") / "text.txt"
    text.write_text("\n\n".join(TEXT[n:] + TEXT[:n] for n in range(16)), encoding="utf-8")
    tokenizer = text.parent / "tokenizer"
    train_tokenizer(TokenizerConfig(inputs=[text], output=tokenizer, vocab_size=320))
    model = make_model(vocab_size=320, max_position_embeddings=4096, num_hidden_layers=2)
    copy_tokenizer(tokenizer, model)
    return model


@pytest.fixture(scope="session")
def put_data() -> Callable[..., None]:
    """Return a function that lays rows as DATA/OWNER/NAME/[CONFIG/]SPLIT.jsonl."""

    def put(
        data: Path, dataset: str, config: str | None = None, **splits: list[dict[str, Any]]
    ) -> None:
        folder = data / dataset / (config or "")
        folder.mkdir(parents=True, exist_ok=True)
        for split, rows in splits.items():
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")

    return put


@pytest.fixture(scope="session")
def results_of() -> Callable[[Path], tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return a function from an evaluation directory to its suites' results and all items."""

    def read(output: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        results = json.loads((output / "results.json").read_text(encoding="utf-8"))
        lines = (output / "items.jsonl").read_text(encoding="utf-8").splitlines()
        return results["suites"], [json.loads(line) for line in lines]

    return read


@pytest.fixture(scope="session")
def serving() -> Callable[..., Any]:
    """Return `serve`, a context manager that yields the address of a server."""
    return serve


@contextmanager
def serve(answer: Callable[[dict[str, Any]], Any]) -> Iterator[str]:
    """Serve ``/v1`` on a free port; `answer` gets a request and returns what to send as JSON.

    An integer is sent as an HTTP status; None closes the connection without a word.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found = answer({**json.loads(body), "path": self.path})
            if found is None:
                self.connection.close()
                return
            content = b"" if isinstance(found, int) else json.dumps(found).encode()
            self.send_response(found if isinstance(found, int) else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture(scope="session")
def put_bfcl() -> Callable[..., None]:
    """Return a function that writes what `bfcl generate` and `bfcl evaluate` leave of a category.

    `wrong` are the places of the entries that failed.
    """

    def put(
        project: Path,
        category: str,
        wrong: set[int],
        count: int = 5,
        model: str = "m",
        group: str = "live",
    ) -> None:
        ids = [f"{category}_{number}" for number in range(count)]
        results = [{"id": name, "result": "[f(x=1)]", "latency": 0.1} for name in ids]
        right = count - len(wrong)
        header = {"accuracy": right / count, "correct_count": right, "total_count": count}
        failed = [
            {"id": ids[place], "test_category": category, "valid": False} for place in sorted(wrong)
        ]
        name = f"BFCL_v4_{category}"
        write_lines(project / "result" / model / group / f"{name}_result.json", results)
        write_lines(project / "score" / model / group / f"{name}_score.json", [header, *failed])

    return put


@pytest.fixture(scope="session")
def put_euroeval() -> Callable[..., None]:
    """Return a function that writes a ``euroeval_benchmark_results.jsonl`` of such records."""

    def put(path: Path, *records: dict[str, Any]) -> None:
        write_lines(path, [_euroeval_record(**record) for record in records])

    return put


def _euroeval_record(
    dataset: str, task: str, model: str = "m", change: dict[str, Any] | None = None, **scores: Any
) -> dict[str, Any]:
    """Return one line, as far as it matters; `scores` has every metric's by iteration."""
    details = {
        "dataset": dataset,
        "languages": '["pl"]',
        "task": task,
        "few_shot": "true",
        "validation_split": "false",
        "raw_results": json.dumps(
            [
                {**dict(zip(scores, values, strict=True)), "failed_instances": []}
                for values in zip(*scores.values(), strict=True)
            ]
        ),
    }
    return {
        "schema_version": "0.2.1",
        "model_info": {"name": model, "id": model},
        "eval_library": {"name": "euroeval", "version": "18.3.0", "additional_details": details},
        "evaluation_results": [{"evaluation_name": f"test_{name}"} for name in scores],
        **(change or {}),
    }
