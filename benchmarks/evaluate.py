"""What evaluating costs beside the model: suites on a stub that takes 100 ms an item.

    python benchmarks/evaluate.py [--items N] [--json]

The stub sleeps 100 ms an item and answers without computing. *bare* calls it on the same prompts
in a loop; *evaluated* is a suite run on it, with prompts built, answers kept on disk, items scored
and written. Reading the task files and the dataset, once a task, is counted as well and also given
by itself. Prompts are 5-shot, some 3,500 characters. Processor time is what the run computed; on
a busy machine it says more than wall time.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM

from nemo_bielik.evaluate.suites.catalog import find_suites
from nemo_bielik.evaluate.suites.run import Runner

MODEL_SECONDS = 0.1
CHOICES = 4


class Stub(LM):  # type: ignore[misc]
    """Takes `MODEL_SECONDS` for the choices of one item, as one call does that batches them."""

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Sleep once an item; hand every answer to lm-eval's cache, as its models do."""
        found = []
        for place in range(0, len(requests), CHOICES):
            time.sleep(MODEL_SECONDS)
            for number, request in enumerate(requests[place : place + CHOICES]):
                found.append((-1.0 - number, False))
                self.cache_hook.add_partial("loglikelihood", request.args, found[-1])
        return found

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Refuse: no suite asks it."""
        raise NotImplementedError

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Refuse: the suite has choices only."""
        raise NotImplementedError


def write_data(folder: Path, items: int) -> None:
    """Write made-up rows in Belebele's columns, with passages of its usual length."""
    target = folder / "facebook" / "belebele" / "pol_Latn"
    target.mkdir(parents=True)
    passage = "Rzeka płynie przez stare miasto, a nad nią stoi wysoki most. " * 8
    with (target / "test.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(items):
            row = {
                "link": "x",
                "question_number": number,
                "flores_passage": f"{number}. {passage}",
                "question": "Co stoi nad rzeką?",
                **{f"mc_answer{n}": f"odpowiedź {n}" for n in range(1, CHOICES + 1)},
                "correct_answer_num": str(number % CHOICES + 1),
            }
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def evaluated(folder: Path, items: int) -> float:
    """Return the wall seconds of a run over the first `items` items."""
    (suite,) = find_suites(["belebele"])
    work = folder / f"work{items}"
    work.mkdir()
    started = time.perf_counter()
    runner = Runner(lm=Stub(), suites=[suite], data_dir=folder / "data", limit=items, work=work)
    with (work / "items.jsonl").open("w", encoding="utf-8") as stream:
        ((_, results),) = runner.run(stream)
    assert results["tasks"]["belebele_pol_Latn"]["items"] == items
    return time.perf_counter() - started


def bare(items: int) -> float:
    """Return the seconds of the same number of bare calls."""
    stub = Stub()
    requests = [type("Request", (), {"args": ("", "")})() for _ in range(items * CHOICES)]
    started = time.perf_counter()
    stub.loglikelihood(requests)
    return time.perf_counter() - started


def measure(items: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_data(folder / "data", items)
        evaluated(folder, 8)  # imports and first use
        fixed = evaluated(folder, 1) - MODEL_SECONDS
        alone = bare(items)
        before = time.process_time()
        wall = evaluated(folder, items)
        computed = time.process_time() - before
    return {
        "items": items,
        "bare_seconds": round(alone, 3),
        "evaluated_seconds": round(wall, 3),
        "of_it_once_a_run_seconds": round(fixed, 3),
        "overhead_percent": round(100 * (wall / alone - 1), 2),
        "overhead_ms_an_item": round(1000 * (wall - alone) / items, 2),
        "overhead_ms_an_item_without_what_comes_once": round(
            1000 * (wall - fixed - alone) / items, 2
        ),
        "processor_ms_an_item": round(1000 * computed / items, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.items)
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name.replace('_', ' '):<46} {value:>10}")


if __name__ == "__main__":
    main()
