"""Servers that work, die, lie and lack what choices need; runs that are killed and go on."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nemo_bielik import cli
from nemo_bielik.errors import BielikError, ServerError
from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.evaluate.stage import evaluate
from nemo_bielik.evaluate.suites.models import Endpoint

PAIRS = [
    {"phenomenon": "zgoda", "good": "Mały dom.", "bad": "Mała dom."},
    {"phenomenon": "rekcja", "good": "Ala ma kota.", "bad": "Ala ma kot."},
]
QUESTIONS = [{"sentence": f"Zupa {n}.", "label": n % 8} for n in range(12)]


@pytest.fixture
def data(put_data, tmp_path):
    shots = [{"sentence": "Gol!", "label": 6}] * 6
    put_data(tmp_path / "data", "nemo-bielik/minimal-pairs", test=PAIRS)
    put_data(tmp_path / "data", "sdadas/8tags", train=shots, test=QUESTIONS)
    return tmp_path / "data"


@pytest.fixture
def config(data, tmp_path):
    """Everything but the address of the server."""

    def make(url, **changes):
        settings = {
            "endpoint": url,
            "endpoint_model": "m",
            "output": tmp_path / "out",
            "suites": ["open-pl"],
            "data_dir": data,
            "concurrency": 1,
        }
        return EvaluateConfig(**(settings | changes))

    return make


def written(request):
    return {"choices": [{"index": 0, "text": " film"}]}


def scoring(directory):
    """Answer as a server that echoes and writes: by a model of its own, token by token."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def write(ids, request):
        """Return the likeliest tokens, one plain forward pass each, up to a stop."""
        text, new = "", []
        while len(new) < request["max_tokens"] and not any(s in text for s in request["stop"]):
            with torch.no_grad():
                new.append(int(model(torch.tensor([[*ids, *new]])).logits[0, -1].argmax()))
            text = tokenizer.decode([token for token in new if token != tokenizer.eos_token_id])
            if new[-1] == tokenizer.eos_token_id:
                break
        for stop in request["stop"]:
            text = text.split(stop)[0]
        return {"choices": [{"index": 0, "text": text}]}

    def answer(request):
        (ids,) = request["prompt"]
        if not request.get("echo"):
            return write(ids, request)
        assert request["max_tokens"] == 1
        with torch.no_grad():
            table = torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)
        after = [*ids[1:], int(table[-1].argmax())]
        token = [None, *(float(row[ident]) for row, ident in zip(table, after, strict=True))]
        top = [None, *({tokenizer.decode(int(row.argmax())): float(row.max())} for row in table)]
        found = {"token_logprobs": token, "top_logprobs": top}
        return {"choices": [{"index": 0, "text": "", "logprobs": found}]}

    return answer


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_server_and_this_process_give_the_same_answers(
    config, suite_model, serving, results_of, tmp_path, concurrency
):
    suites = ["minimal-pairs", "open-pl"]
    settings = {"suites": suites, "limit": 1}
    with serving(scoring(suite_model)) as url:
        there = config(url, **settings, tokenizer=suite_model, concurrency=concurrency)
        evaluate(there)
    own = tmp_path / "here"
    here = config(None, **settings, endpoint_model=None, model=suite_model, output=own)
    evaluate(here)
    (scores, items), (own_scores, own_items) = results_of(there.output), results_of(here.output)
    assert scores["minimal-pairs"]["version"] == own_scores["minimal-pairs"]["version"]
    assert [item["task"] for item in items] == ["minimal_pairs", "8tags", "8tags_written"]
    for item, own in zip(items, own_items, strict=True):
        log_probs, own_log_probs = item.pop("log_probs", []), own.pop("log_probs", [])
        assert log_probs == pytest.approx(own_log_probs, abs=1e-4)
        assert item == own
    assert items[-1]["answer"], "a model that writes nothing would agree with any other"
    for suite, found in scores.items():
        wanted = own_scores[suite]["tasks"]
        assert {name: task["score"] for name, task in found["tasks"].items()} == {
            name: task["score"] for name, task in wanted.items()
        }


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (written, "the server does not echo the prompt's log-probabilities"),
        (lambda request: 400 if request.get("echo") else written(request), "refuses to echo"),
    ],
)
def test_choices_are_not_run_where_prompts_are_not_echoed(
    config, suite_model, serving, results_of, answer, reason
):
    with serving(answer) as url:
        run = config(url, suites=["minimal-pairs", "open-pl"], tokenizer=suite_model)
        evaluate(run)
    suites, items = results_of(run.output)
    assert suites["minimal-pairs"]["status"] == "not run" and not suites["minimal-pairs"]["tasks"]
    assert reason in suites["minimal-pairs"]["reason"]
    assert suites["minimal-pairs"]["version"] is None
    assert suites["open-pl"]["tasks"]["8tags_written"]["score"] == pytest.approx(2 / 12)
    assert {item["task"] for item in items} == {"8tags_written"}


def test_chat_endpoints_get_messages(config, serving, results_of):
    seen = []

    def answer(request):
        seen.append(request)
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Film!"}}]}

    with serving(answer) as url:
        run = config(url, chat=True, limit=1)
        evaluate(run)
    suites, (item,) = results_of(run.output)
    assert (item["prediction"] if "prediction" in item else item["score"]) == 1.0
    assert {request["path"] for request in seen} == {"/v1/chat/completions"}
    roles = [message["role"] for message in seen[0]["messages"]]
    assert roles == ["user", "assistant"] * 5 + ["user"]
    assert "chat endpoints give no log-prob" in suites["open-pl"]["not_run"]["8tags"]


def test_a_server_that_dies_leaves_what_it_answered(config, serving, results_of, tmp_path, capsys):
    served = []

    def mortal(request):
        served.append(request)
        return None if len(served) > 5 else written(request)

    words = ["evaluate", "--output", str(tmp_path / "out"), "--suites", "long-context", "open-pl"]
    words += ["--data-dir", str(tmp_path / "data"), "--endpoint-model", "m", "--concurrency", "1"]
    with serving(mortal) as url:
        status = cli.main([*words, "--endpoint", url, "--suites", "open-pl"])
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 2 and line.startswith(f"error: {url}: the server does not answer")
    assert line.endswith("5 answers are kept and the same command continues")
    assert not (tmp_path / "out").exists()
    served.clear()

    def healthy(request):
        served.append(request)
        return written(request)

    with serving(healthy) as second:  # started again, at another port
        run = config(second, suites=["open-pl"])
        evaluate(run)
    assert len(served) == 12 - 5
    assert len(results_of(run.output)[1]) == 12


def test_another_model_of_the_server_has_answers_of_its_own(config, serving, tmp_path):
    with serving(lambda request: 500) as url:
        for name, line in (("m", "answers are kept"), ("n", "another setting endpoint_model")):
            with pytest.raises(BielikError, match=line):
                evaluate(config(url, endpoint_model=name))


def test_a_chat_answer_without_content_is_an_empty_answer(config, serving, results_of, capsys):
    """OpenAI's format allows null: of a refusal, or where thinking took all tokens."""
    content = itertools.cycle([None, "film"])

    def answer(request):
        return {"choices": [{"index": 0, "message": {"content": next(content)}}]}

    with serving(answer) as url:
        run = config(url, chat=True)
        evaluate(run)
    suites, items = results_of(run.output)
    task = suites["open-pl"]["tasks"]["8tags_written"]
    assert (task["empty_answers"], task["items"]) == (6, 12)
    assert sorted(item["answer"] for item in items) == [""] * 6 + ["film"] * 6
    assert "6 answers were empty and count as wrong" in capsys.readouterr().out


@pytest.mark.parametrize("message", ["film", {}, None])
def test_a_chat_answer_out_of_format_is_one_line(config, serving, message):
    answer = {"choices": [{"index": 0, "message": message}]}
    with (
        serving(lambda request: answer) as url,
        pytest.raises(ServerError, match="answer out of format: its message is") as caught,
    ):
        evaluate(config(url, chat=True))
    assert "\n" not in str(caught.value)


def test_a_refused_key_is_not_called_a_server_that_is_gone(config, serving):
    with (
        serving(lambda request: 401) as url,
        pytest.raises(ServerError, match=r"refuses the key .*; set OPENAI_API_KEY"),
    ):
        evaluate(config(url))


def test_a_run_goes_on_where_the_server_died(config, serving, results_of):
    served, alive = [], threading.Event()

    def answer(request):
        served.append(request["prompt"])
        return written(request) if alive.is_set() or len(served) <= 7 else 503

    with serving(answer) as url:
        run = config(url)
        with pytest.raises(ServerError, match="7 answers are kept"):
            evaluate(run)
        alive.set()
        served.clear()
        evaluate(run)
    suites, items = results_of(run.output)
    assert len(served) == len(set(served)) == 12 - 7
    assert len(items) == 12 and suites["open-pl"]["tasks"]["8tags_written"]["items"] == 12


def test_suites_that_are_done_are_kept_when_a_later_one_fails(config, serving, tmp_path):
    def answer(request):
        return written(request) if "Dziedzina" in request["prompt"] else 500

    with serving(answer) as url, pytest.raises(ServerError):
        evaluate(config(url, suites=["open-pl", "long-context"]))
    work = tmp_path / ".out.work"
    results = json.loads((work / "results.json").read_text(encoding="utf-8"))
    assert results["suites"]["open-pl"]["tasks"]["8tags_written"]["items"] == 12
    assert len((work / "items.jsonl").read_text(encoding="utf-8").splitlines()) == 12


def test_a_killed_run_asks_only_for_the_rest(config, serving, results_of, tmp_path):
    served, slow = [], threading.Event()

    def answer(request):
        served.append(request["prompt"])
        if len(served) > 6 and not slow.is_set():
            time.sleep(60)
        return written(request)

    with serving(answer) as url:
        run = config(url)
        words = ["--output", run.output, "--suites", "open-pl", "--data-dir", run.data_dir]
        words += ["--endpoint", url, "--endpoint-model", "m", "--concurrency", "1"]
        command = [sys.executable, "-m", "nemo_bielik", "evaluate", *map(str, words)]
        process = subprocess.Popen(command, start_new_session=True)
        limit = time.monotonic() + 120
        while len(served) < 7 and time.monotonic() < limit and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        slow.set()
        served.clear()
        assert subprocess.run(command, check=False).returncode == 0
    assert len(served) == 12 - 6
    assert len(results_of(run.output)[1]) == 12


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ({"error": "no"}, 'no "choices"'),
        ({"choices": []}, 'no "choices"'),
        ({"choices": [{"index": 0}]}, "its text is 'None'"),
        ("text", 'no "choices"'),
        ({"choices": [{"index": "first", "text": "film"}]}, "no whole number is index"),
    ],
)
def test_answers_out_of_format_are_one_line(config, serving, capsys, answer, complaint):
    with serving(lambda request: answer) as url, pytest.raises(ServerError) as caught:
        evaluate(config(url))
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
    assert url in str(caught.value)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("token", "top"), [("-1.5", {"a": -1.5}), (None, {"a": -1.5}), (-1.5, None), (-1.5, {"a": "b"})]
)
def test_log_probabilities_out_of_format_are_the_servers_fault(token, top):
    """And not a row's that does not fit."""

    def answer(token, top):
        found = {"token_logprobs": [None, token, -1.0], "top_logprobs": [None, top, None]}
        return {"choices": [{"index": 0, "text": "", "logprobs": found}]}

    good = Endpoint.parse_logprobs(answer(-1.5, {"a": -1.5}), tokens=[[5, 6]], ctxlens=[1])
    assert good == [(-1.5, True)]
    with pytest.raises(ServerError, match="token_logprobs must be numbers"):
        Endpoint.parse_logprobs(answer(token, top), tokens=[[5, 6]], ctxlens=[1])


def test_a_question_that_the_server_refuses_is_one_task_not_run(config, serving, results_of):
    def answer(request):
        return written(request) if len(request["prompt"]) < 20_000 else 400

    with serving(answer) as url:
        run = config(url, suites=["long-context"], limit=1)
        evaluate(run)
    suite = results_of(run.output)[0]["long-context"]
    assert set(suite["tasks"]) == {"long_context_4k", "long_context_16k"}
    assert suite["not_run"]["long_context_64k"].startswith("the server refuses a question")


def test_a_server_that_is_not_there_is_one_line(config, suite_model):
    with pytest.raises(ServerError, match="does not answer"):
        evaluate(config("http://127.0.0.1:9/v1", tokenizer=suite_model))
