"""The whole stage against a server in another process: output, resumption, failures, bad input."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.bench.config import BenchConfig
from nemo_bielik.bench.servers import KINDS, ServerKind
from nemo_bielik.bench.stage import bench
from nemo_bielik.bench.summary import summary
from nemo_bielik.cli import main
from nemo_bielik.errors import ConfigError, DataError, ServerError
from nemo_bielik.manifest import Manifest

Settings = Callable[..., BenchConfig]
STUB = Path(__file__).parent / "stub_server.py"


@pytest.fixture
def settings(stub_url: str, tmp_path: Path) -> Settings:
    def make(**changes: Any) -> BenchConfig:
        usual: dict[str, Any] = {
            "output": tmp_path / "bench",
            "model": "bielik-11b-v3",
            "name": "stub",
            "url": stub_url,
            "requests": 4,
            "warmup": 1,
            "repeats": 2,
            "prompt_tokens": (8,),
            "output_tokens": (6,),
            "ramp_seconds": 0.0,
        }
        return BenchConfig(**(usual | changes))

    return make


def pair(settings: Settings, **changes: Any) -> BenchConfig:
    """Settings of a teacher and a student."""
    both = {"student": "bielik-minitron-7b", "student_name": "no-usage"}
    return settings(**(both | changes))


def test_teacher_and_student_in_one_run(
    settings: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = pair(settings, concurrency=(1, 2), device="H200", grid_intensity=500.0)
    bench(config)
    found = json.loads((config.output / "bench.json").read_text())
    assert found["complete"] and found["failure"] is None
    single, double = found["cases"]
    assert (single["concurrency"], double["concurrency"]) == (1, 2)
    for case in (single, double):
        for role in ("teacher", "student"):
            figures = case["models"][role]
            assert figures["requests"] == 8 and figures["output_tokens"] == 48  # 2 rounds of 4
            assert [row["status"] for row in figures["rounds"]] == ["complete"] * 2
            assert figures["energy"]["method"] == "rated: 700 W"
        # a client that had to wait for its core may see all of a short answer at once: no TPOT
        assert len(case["ratios"]["request_latency_ms"]["of_repeats"]) == 2
        assert "the server reports no usage" in case["notes"][0]
    rows = [json.loads(line) for line in (config.output / "requests.jsonl").open()]
    assert len(rows) == 32 and {len(row["itl_ms"]) for row in rows} == {5}
    assert Manifest.load(config.output).results == {"cases": 2, "requests": 32}
    assert not list(tmp_path.glob(".bench*"))
    text = capsys.readouterr().out
    assert "student ÷ teacher" in text and "CO₂e a million at 500 g/kWh" in text

    head = summary(config.output)
    assert head["models"] == {"teacher": "stub", "student": "no-usage"} and head["complete"]
    assert head["cases"][0]["energy"]["teacher"] == single["models"]["teacher"]["energy"]
    assert "rounds" not in head["cases"][0]["models"]["teacher"]


def test_served_models_take_turns_with_one_server_at_a_time(
    settings: Settings,
    make_model: Callable[..., Path],
    tokenizer_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = ServerKind(
        "python",
        lambda model, port: [str(STUB), "--port", str(port), "--name", model,
                             "--first-seconds", "0", "--token-seconds", "0"],
        lambda tokens: {"asked": tokens},
        ("--version",),
        "nothing",
    )  # fmt: skip
    monkeypatch.setitem(KINDS, "transformers", kind)
    teacher, student = make_model(seed=1), make_model(seed=2, num_hidden_layers=2)
    for directory in (teacher, student):
        for file in tokenizer_directory.iterdir():
            shutil.copy(file, directory)
    config = settings(
        model=str(teacher),
        student=str(student),
        name=None,
        url=None,
        serve="transformers",
        server_program=Path(sys.executable),
    )
    bench(config)
    found = json.loads((config.output / "bench.json").read_text())
    servers = found["environment"]["servers"]
    assert str(teacher) in servers["teacher"]["command"]
    assert found["models"]["student"]["name"] == str(student)
    assert found["models"]["teacher"]["precision"] == "fp32"  # as the checkpoint is stored
    assert found["cases"][0]["models"]["student"]["requests"] == 8
    assert summary(config.output)["server"].startswith("transformers Python 3.12")
    assert {path.name for path in config.output.glob("*.log")} == {
        "server-teacher.log",
        "server-student.log",
    }
    with pytest.raises(ConfigError, match=r"the teacher .* knows 64 positions"):
        bench(dataclasses.replace(config, prompt_tokens=(60,)))


def test_what_is_done_is_not_measured_again(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(settings(json=True))
    first = capsys.readouterr().out
    bench(settings(json=True))
    assert capsys.readouterr().out == first


def test_a_server_that_dies_leaves_partial_results_marked(settings: Settings) -> None:
    config = pair(settings, student_name="dies", repeats=1, requests=5)
    with pytest.raises(ServerError, match=r"closed the connection after 2 pieces.*partial") as line:
        bench(config)
    assert "\n" not in str(line.value)
    assert not config.output.exists()
    head = summary(config.output)  # the teacher was measured before the student's server died
    assert head["complete"] is False and "closed the connection" in head["failure"]
    [case] = head["cases"]
    assert case["models"]["teacher"]["requests"] == 5
    assert case["models"]["student"]["requests"] == 0
    assert "1 round(s) broke off" in case["notes"][-1]
    assert case["ratios"] == {}


def test_a_server_that_was_never_there_leaves_nothing(
    settings: Settings, stub_url: str, tmp_path: Path
) -> None:
    config = settings(url="http://127.0.0.1:9/v1")
    with pytest.raises(ServerError) as line:
        bench(config)
    assert "partial" not in str(line.value)
    assert [path.name for path in tmp_path.iterdir() if "work" in path.name] == []
    bench(dataclasses.replace(config, url=stub_url))  # the address mended, nothing in the way


def test_a_stopped_bench_goes_on_with_what_is_missing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemo_bielik.bench import stage

    config, real, rounds = settings(repeats=3), stage._measure_round, []

    def stops_at_the_third(*arguments: Any) -> Any:
        rounds.append(arguments)
        if len(rounds) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(stage, "_measure_round", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        bench(config)
    rounds.append(None)
    bench(config)
    assert len(rounds) == 5  # two, the one that was broken off, the mark, and that one again
    assert (
        json.loads((config.output / "bench.json").read_text())["cases"][0]["models"]["model"][
            "requests"
        ]
        == 12
    )


def test_turns_are_swapped_every_repeat(settings: Settings, stub_url: str) -> None:
    def served() -> list[dict[str, Any]]:
        with urllib.request.urlopen(stub_url.replace("/v1", "/record")) as answer:
            return list(json.load(answer))

    before = len(served())
    bench(pair(settings, requests=1, warmup=0, repeats=3))
    order = [one["model"] for one in served()[before:]]
    assert order == ["stub", "no-usage", "no-usage", "stub", "stub", "no-usage"]


def test_warm_up_requests_are_sent_but_not_counted(settings: Settings, stub_url: str) -> None:
    def served() -> int:
        with urllib.request.urlopen(stub_url.replace("/v1", "/record")) as answer:
            return len(json.load(answer))

    before = served()
    config = settings(requests=3, warmup=2, repeats=1, concurrency=(2,))
    bench(config)
    assert served() - before == 7  # two for each of two lanes, and three
    found = json.loads((config.output / "bench.json").read_text())
    assert found["cases"][0]["models"]["model"]["requests"] == 3


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("absent", "serves no model 'absent'"),
        ("no-stream", "does not stream"),
        ("empty", "ended without a token"),
        ("no-sse", "where server-sent events are due"),
    ],
)
def test_a_server_out_of_form_is_one_line_on_the_command_line(
    settings: Settings, capsys: pytest.CaptureFixture[str], name: str, line: str
) -> None:
    config = settings()
    words = ["bench", "--model", name, "--url", str(config.url), "--output", str(config.output)]
    assert main(words) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and line in said and "\n" not in said


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"url": None}, "give either --serve .* or --url"),
        ({"serve": "auto"}, "not both"),
        ({"url": "ftp://x"}, "write http://host:port/v1"),
        ({"requests": 0}, "requests is 0"),
        ({"concurrency": (0,)}, "concurrency is 0"),
        ({"concurrency": ()}, "concurrency is 0"),
        ({"watts": -1.0}, "watts is -1.0"),
        ({"grid_intensity": float("nan")}, "grid_intensity is nan"),
        ({"extra_body": "{"}, "extra_body is not JSON"),
        ({"extra_body": "[1]"}, "must be a JSON object"),
        ({"student_name": "x"}, "need --student"),
        ({"server_arguments": ("-x",)}, "go with --serve"),
        ({"precision": "int3"}, "known are fp32, bf16"),
        ({"device": "H20"}, "did you mean 'H200'"),
        ({"prompt_tokens": (40_000,)}, "knows 32768 positions"),
    ],
)
def test_bad_settings_are_one_line(settings: Settings, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        bench(settings(**changes))


def test_a_directory_without_a_bench_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such bench"):
        summary(tmp_path)


def test_sigterm_keeps_the_rounds_and_says_that_it_continues(
    settings: Settings, tmp_path: Path
) -> None:
    config = settings()
    words = ["bench", "--model", "stub", "--url", str(config.url), "--output", str(config.output)]
    words += ["--repeats", "1000", "--requests", "2", "--output-tokens", "6", "--ramp-seconds", "0"]
    command = [sys.executable, "-m", "nemo_bielik", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        rounds = tmp_path / ".bench.work" / "rounds"
        deadline = time.monotonic() + 60
        while not list(rounds.glob("*.json")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and "the same command continues" in said
    assert "Traceback" not in said
    assert list(rounds.glob("*.json")) and not config.output.exists()
    head = summary(config.output)
    assert head["failure"] == "stopped before its end" and head["cases"][0]["models"]["model"]
