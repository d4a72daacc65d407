"""Suites that other packages ask: which commands are given, and what becomes of what they do.

The programs here only note how they were called, and leave the files that the real packages once
wrote (`external/README.md`).
"""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from nemo_bielik.errors import DataError, ServerError
from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.evaluate.stage import evaluate

EXTERNAL = Path(__file__).parent / "external"
PROGRAM = """
import json, os, shutil, sys
from pathlib import Path

name = Path(sys.argv[0]).name
call = {"argv": [name, *sys.argv[1:]], "cwd": os.getcwd(), "environment": dict(os.environ)}
if "--local-model-path" in sys.argv:
    place = Path(sys.argv[sys.argv.index("--local-model-path") + 1])
    call["tokenizer"] = str(place.resolve())
with open(os.environ["CALLS"], "a") as stream:
    stream.write(json.dumps(call) + "\\n")
if os.path.exists(os.environ["CALLS"] + ".broken"):
    print("the server is gone")
    sys.exit(3)
external = Path(os.environ["EXTERNAL"])
if name == "euroeval":
    shutil.copy(external / "euroeval_benchmark_results.jsonl", ".")
else:
    folder = {"generate": "result", "evaluate": "score"}[sys.argv[1]]
    shutil.copytree(external / "bfcl" / folder, folder, dirs_exist_ok=True)
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Put both programs on the PATH; return where they note their calls."""
    path, folder = tmp_path / "calls.jsonl", tmp_path / "bin"
    folder.mkdir()
    for name in ("bfcl", "euroeval"):
        (folder / name).write_text(f"#!{sys.executable}{PROGRAM}", encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    for name, value in {"OPENAI_API_KEY": "a-key", "CALLS": path, "EXTERNAL": EXTERNAL}.items():
        monkeypatch.setenv(name, str(value))
    return path


@pytest.fixture
def config(suite_model, serving, tmp_path):
    with serving(lambda request: 400) as url:

        def make(**changes):
            usual = {
                "endpoint": url,
                "endpoint_model": "some/student",
                "tokenizer": suite_model,
                "output": tmp_path / "out",
                "suites": ["bfcl", "euroeval"],
                "concurrency": 5,
            }
            return EvaluateConfig(**(usual | changes))

        yield make


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_both_are_run_and_read(config, calls, results_of, suite_model, tmp_path):
    run = config()
    evaluate(run)
    suites, items = results_of(tmp_path / "out")
    assert suites["bfcl"]["tasks"]["live_parallel"]["score"] == pytest.approx(13 / 16)
    assert suites["euroeval"]["status"] == "run"
    assert {item["suite"] for item in items} == {"bfcl", "euroeval"}
    generate, score, euroeval = lines(calls)
    what = "--model speakleash/Bielik-11B-v2.3-Instruct --test-category non_live,live"
    served = "--skip-server-setup --local-model-path some/student --num-threads 5"
    assert generate["argv"] == f"bfcl generate {what} {served}".split(" ")
    assert generate["tokenizer"] == str(suite_model)
    work = str(tmp_path / ".out.work" / "bfcl")
    assert generate["cwd"] == generate["environment"]["BFCL_PROJECT_ROOT"] == work
    assert generate["environment"]["REMOTE_OPENAI_BASE_URL"] == run.endpoint
    assert generate["environment"]["REMOTE_OPENAI_API_KEY"] == "a-key"
    assert score["argv"] == f"bfcl evaluate {what}".split(" ")
    asked = f"euroeval --model some/student --api-base {run.endpoint} --language pl"
    assert euroeval["argv"] == asked.split(" ")
    assert not (tmp_path / ".out.work").exists()


def test_one_that_fails_keeps_what_it_wrote_and_goes_on(config, calls, results_of, tmp_path):
    broken = calls.with_name("calls.jsonl.broken")
    broken.touch()
    with pytest.raises(ServerError, match=r"bfcl failed with status 3 \(the server is gone\); its"):
        evaluate(config())
    kept = tmp_path / ".out.work" / "bfcl" / "some" / "student"
    assert kept.is_symlink()
    broken.unlink()
    evaluate(config())
    assert results_of(tmp_path / "out")[0]["bfcl"]["status"] == "run"
    assert len(lines(calls)) == 4


def test_what_they_need_is_said(config, calls, results_of, tmp_path, monkeypatch, suite_model):
    text = tmp_path / "text.txt"
    text.write_text("Ala ma kota.", encoding="utf-8")
    here = {"endpoint": None, "endpoint_model": None, "model": suite_model, "texts": [text]}
    evaluate(config(**here, output=tmp_path / "here"))
    reasons = {name: one["reason"] for name, one in results_of(tmp_path / "here")[0].items()}
    assert reasons["bfcl"] == (
        "its package asks an endpoint; give one, or its results as --bfcl: docs/suites.md"
    )
    evaluate(config(output=tmp_path / "bare", tokenizer=None))
    suites = results_of(tmp_path / "bare")[0]
    assert "by the model's tokenizer; give its directory" in suites["bfcl"]["reason"]
    assert suites["euroeval"]["status"] == "run"
    with pytest.raises(DataError, match="no suite could be run"):
        evaluate(config(limit=2, output=tmp_path / "limited"))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DataError, match="no suite could be run"):
        evaluate(config(output=tmp_path / "none"))


def test_a_tokenizer_that_brings_code_is_not_given_to_a_program_that_runs_it(
    config, calls, suite_model, tmp_path, capsys
):
    tokenizer = tmp_path / "tokenizer"
    shutil.copytree(suite_model, tokenizer)
    settings = json.loads((tokenizer / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["auto_map"] = {"AutoTokenizer": ["own.Tokenizer", None]}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(DataError, match="no suite could be run"):
        evaluate(config(suites=["bfcl"], tokenizer=tokenizer))
    assert "names code of its own (auto_map)" in capsys.readouterr().out
    assert not calls.exists()
