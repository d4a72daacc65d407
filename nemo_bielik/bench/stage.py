"""The bench stage: served models in, ``bench.json`` and ``requests.jsonl`` out.

Teacher and student take turns: every repeat measures both, the other one first each time, so that
what drifts on a machine meets both alike. Rounds are kept as they are done; the same command goes
on after a stop, and a server's failure leaves what was measured before it, marked as partial.
"""

import asyncio
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_bielik.artifact_files import load_json, save_json
from nemo_bielik.bench.config import BenchConfig, Case
from nemo_bielik.bench.connection import Address
from nemo_bielik.bench.energy import Meter, find_meter
from nemo_bielik.bench.environment import describe_machine, load_average
from nemo_bielik.bench.load import Endpoint, run_round
from nemo_bielik.bench.prompts import make_prompts
from nemo_bielik.bench.results import case_results
from nemo_bielik.bench.rounds import ROUNDS_NAME, SavedRound, load_rounds
from nemo_bielik.bench.servers import KINDS, choose_kind, find_program, serve
from nemo_bielik.bench.table import format_results
from nemo_bielik.bench.targets import (
    Target,
    check_lengths,
    find_targets,
    find_tokenizer,
    fingerprints,
)
from nemo_bielik.data.tokenizer import TextTokenizer
from nemo_bielik.errors import ServerError
from nemo_bielik.planner.cards import card_or_device
from nemo_bielik.progress import progress
from nemo_bielik.stages import describe, end_on_sigterm, is_done, open_work, stage_output

RESULTS_NAME = "bench.json"
REQUESTS_NAME = "requests.jsonl"
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


@dataclass
class Bench:
    """One run: its settings, what it measures, and where its rounds are kept."""

    config: BenchConfig
    targets: list[Target]
    tokenizer: TextTokenizer | None
    kind: str | None
    program: str
    work: Path

    @property
    def rounds(self) -> Path:
        """Where rounds lie."""
        return self.work / ROUNDS_NAME

    def is_saved(self, target: Target, case: Case, repeat: int) -> bool:
        """Whether a whole round of this kind was measured before."""
        path = self.rounds / SavedRound(case.name, target.role, repeat, []).name
        return path.is_file() and not SavedRound.load(path).failure


def bench(config: BenchConfig) -> None:
    """Measure, write `config.output` and print a table; raise `ServerError` if a server fails."""
    targets = find_targets(config)
    tokenizer = find_tokenizer(config, targets)
    check_lengths(config, targets)
    kind = choose_kind(config.serve) if config.serve else None
    program = find_program(kind, config.server_program) if kind else ""
    manifest = describe("bench", config, fingerprints(targets), config.seed)
    if not is_done(config.output, manifest):
        started = time.monotonic()
        run = Bench(config, targets, tokenizer, kind, program, open_work(config.output, manifest))
        try:
            with end_on_sigterm():
                failure = _measure(run)
        except (KeyboardInterrupt, SystemExit):
            save_json(run.work / RESULTS_NAME, _results(run, "stopped before its end"))
            raise
        results = _results(run, failure)
        save_json(run.work / RESULTS_NAME, results)
        if failure and not load_rounds(run.rounds):
            shutil.rmtree(run.work)
            raise ServerError(failure)
        if failure:
            raise ServerError(
                f"{failure}; what was measured is in {run.work}, marked as partial, and the same "
                "command goes on"
            )
        summary: dict[str, Any] = {}
        with stage_output(config.output, manifest, summary, started) as scratch:
            save_json(scratch / RESULTS_NAME, results)
            _write_requests(scratch / REQUESTS_NAME, run.rounds)
            for log in run.work.glob("*.log"):
                shutil.copy2(log, scratch)
            summary |= {"cases": len(results["cases"]), "requests": _answered(results)}
        shutil.rmtree(run.work)
    _print(config)


def _print(config: BenchConfig) -> None:
    results = load_json(config.output / RESULTS_NAME, "bench")
    print(
        json.dumps(results, indent=2, ensure_ascii=False)
        if config.json
        else format_results(results)
    )


def _measure(run: Bench) -> str:
    """Measure what is missing; return the line of the failure that broke it off, or ""."""
    config, cases = run.config, run.config.cases()
    total = len(cases) * len(run.targets) * config.repeats
    with progress(total=total, unit="rounds", desc="bench") as bar:
        for repeat in range(config.repeats):
            turn = run.targets if repeat % 2 == 0 else run.targets[::-1]
            for target in turn:
                missing = [case for case in cases if not run.is_saved(target, case, repeat)]
                bar.update(len(cases) - len(missing))
                try:
                    failure = _measure_target(run, target, missing, repeat, bar) if missing else ""
                except ServerError as error:
                    failure = str(error)
                if failure:
                    return failure
    return ""


def _measure_target(run: Bench, target: Target, cases: list[Case], repeat: int, bar: Any) -> str:
    with _served(run, target) as (url, server):
        asyncio.run(_endpoint(run, target, url, 1).check_name())
        is_here = Address.parse(url).host in _LOCAL_HOSTS
        meter = find_meter(is_here, _watts(run.config))
        for case in cases:
            done = _measure_round(
                run, target, _endpoint(run, target, url, case.output_tokens), case, repeat, meter
            )
            done.server = server
            done.save(run.rounds)
            bar.update(1)
            if done.failure:
                return done.failure
    return ""


def _measure_round(
    run: Bench, target: Target, endpoint: Endpoint, case: Case, repeat: int, meter: Meter
) -> SavedRound:
    config = run.config
    warm = config.warmup * case.concurrency
    number = max(config.requests, case.concurrency)
    prompts = make_prompts(
        warm + number, case.prompt_tokens, run.tokenizer, f"{config.seed} {case.name} {repeat}"
    )
    bodies = [endpoint.body(prompt, case.output_tokens) for prompt in prompts]
    settings = (case.concurrency, config.ramp_seconds, config.timeout_seconds)
    found = asyncio.run(run_round(endpoint, bodies[:warm], *settings))
    if not found.failure:
        meter.start()
        found = asyncio.run(run_round(endpoint, bodies[warm:], *settings))
    else:
        found.requests.clear()
    joules = None if found.failure else meter.joules()
    return SavedRound(
        case.name,
        target.role,
        repeat,
        found.requests,
        found.failure,
        joules,
        meter.method,
        load_average(),
    )


@contextmanager
def _served(run: Bench, target: Target) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where the target is served, and by what; a server of ours runs only meanwhile."""
    if run.kind is None or target.directory is None:
        assert target.url is not None
        yield target.url, {}
        return
    config = run.config
    log = run.work / f"server-{target.role}.log"
    with serve(
        run.kind,
        run.program,
        target.directory,
        list(config.server_arguments),
        log,
        config.ready_seconds,
    ) as server:
        yield server.url, {"kind": run.kind, "version": server.version, "command": server.command}


def _endpoint(run: Bench, target: Target, url: str, output_tokens: int) -> Endpoint:
    config, tokenizer = run.config, run.tokenizer
    extra = config.extra_fields()
    if extra is None:
        extra = KINDS[run.kind].extra_body(output_tokens) if run.kind else {"ignore_eos": True}
    key = os.environ.get(config.api_key_variable)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    count = None if tokenizer is None else lambda text: len(tokenizer.encode_batch([text])[0])
    return Endpoint(Address.parse(url), target.name, config.endpoint, headers, extra, count)


def _watts(config: BenchConfig) -> float | None:
    if config.watts is not None or config.device is None:
        return config.watts
    return card_or_device(config.device).watts


def _results(run: Bench, failure: str) -> dict[str, Any]:
    rounds = load_rounds(run.rounds)
    archs = {target.role: target.arch for target in run.targets}
    precisions = {target.role: target.precision for target in run.targets}
    cases = [
        case_results(
            run.config, case, [one for one in rounds if one.case == case.name], archs, precisions
        )
        for case in run.config.cases()
    ]
    servers = {one.role: one.server for one in rounds if one.server}
    return {
        "complete": not failure,
        "failure": failure or None,
        "models": {
            t.role: {"name": t.name, "url": t.url, "precision": t.precision} for t in run.targets
        },
        "environment": {"machine": describe_machine(), "servers": servers},
        "cases": cases,
    }


def _answered(results: dict[str, Any]) -> int:
    return sum(
        int(figures["requests"]) for case in results["cases"] for figures in case["models"].values()
    )


def _write_requests(path: Path, rounds: Path) -> None:
    """Write one line a request: its times in milliseconds from when it was sent."""
    with path.open("w", encoding="utf-8") as stream:
        for one in load_rounds(rounds):
            for request in one.requests:
                row = {
                    "case": one.case,
                    "model": one.role,
                    "repeat": one.repeat,
                    "prompt_tokens": request.prompt_tokens,
                    "output_tokens": request.output_tokens,
                    "ttft_ms": request.ttft_ms,
                    "tpot_ms": request.tpot_ms,
                    "request_latency_ms": request.request_latency_ms,
                    "itl_ms": request.itl_ms,
                }
                stream.write(json.dumps(row) + "\n")
