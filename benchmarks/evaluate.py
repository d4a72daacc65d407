"""What evaluating costs beside the model: suites on a stub, and on a model in this process.

    python benchmarks/evaluate.py [--items N] [--json]

The stub sleeps 100 ms an item and answers without computing. *bare* calls it on the same prompts
in a loop; *evaluated* is a suite run on it, with prompts built, answers kept on disk, items scored
and written. Reading the task files and the dataset, once a task, is counted as well and also given
by itself. Prompts are 5-shot, some 3,500 characters. Processor time is what the run computed; on
a busy machine it says more than wall time.

*In process*: a directory of random weights (`--layers`, `--hidden`; a vocabulary of 32,128, as the
report's models) goes the way of `bielik evaluate --model`. Every call of the model is recorded and
then made again, bare: the same batches, padding and all, and nothing else. Rounds of both alternate
and their medians count. The model must take 100 ms an item or more for the 5 %: see `bare_ms`.
"""

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lm_eval.api.model import LM

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.tokenizer import TokenizerConfig, train_tokenizer
from nemo_bielik.evaluate.language_model import LanguageModel
from nemo_bielik.evaluate.suites.catalog import find_suites
from nemo_bielik.evaluate.suites.models import here, load_tokenizer
from nemo_bielik.evaluate.suites.run import Runner
from nemo_bielik.initialize import InitializeConfig, initialize

MODEL_SECONDS = 0.1
CHOICES = 4
VOCABULARY = 292
PASSAGE = "Rzeka płynie przez stare miasto, a nad nią stoi wysoki most. " * 8
WORDS = f"{PASSAGE} Co stoi nad rzeką? odpowiedź"


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
    with (target / "test.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(items):
            row = {
                "link": "x",
                "question_number": number,
                "flores_passage": f"{number}. {PASSAGE}",
                "question": "Co stoi nad rzeką?",
                **{f"mc_answer{n}": f"odpowiedź {n}" for n in range(1, CHOICES + 1)},
                "correct_answer_num": str(number % CHOICES + 1),
            }
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def evaluated(folder: Path, items: int, lm: LM | None = None) -> float:
    """Return the wall seconds of a run over the first `items` items, on the stub or on `lm`."""
    (suite,) = find_suites(["belebele"])
    work = Path(tempfile.mkdtemp(dir=folder))
    started = time.perf_counter()
    runner = Runner(
        lm=lm or Stub(), suites=[suite], data_dir=folder / "data", limit=items, work=work
    )
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


def random_model(folder: Path, layers: int, hidden: int) -> Path:
    """Make a model of random weights, with a tokenizer of some 2 characters a token."""
    text = folder / "text.txt"
    text.write_text("\n\n".join(WORDS.split()), encoding="utf-8")
    train_tokenizer(
        TokenizerConfig(inputs=[text], output=folder / "tokenizer", vocab_size=VOCABULARY)
    )
    initialize(
        InitializeConfig(
            output=folder / "model",
            arch="tiny-bielik-11b-v3",
            tokenizer=folder / "tokenizer",
            num_layers=layers,
            hidden_size=hidden,
            ffn_hidden_size=3 * hidden,
            num_attention_heads=8,
            num_query_groups=2,
            head_dim=hidden // 8,
            vocab_size=32_128,  # more rows than the tokenizer has tokens, as padded embeddings do
            max_position_embeddings=8192,
        )
    )
    return folder / "model"


@torch.inference_mode()
def replay(model: Any, calls: list[tuple[Any, Any]]) -> float:
    """Return the seconds of the recorded calls alone."""
    started = time.perf_counter()
    for arguments, named in calls:
        model(*arguments, **named)
    return time.perf_counter() - started


def measure_here(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Return what evaluating a model in this process costs over its bare calls."""
    with contextlib.redirect_stdout(io.StringIO()):
        directory = random_model(folder, given.layers, given.hidden)
    opened = LanguageModel.open(Checkpoint.open(directory), tokens_per_batch=8 * 256)
    lm = here(opened, load_tokenizer(directory), given.batch_size)
    calls: list[tuple[Any, Any]] = []

    def record(_: Any, arguments: Any, named: Any) -> None:
        calls.append((arguments, named))

    hook = opened.model.register_forward_pre_hook(record, with_kwargs=True)
    evaluated(folder, given.items_here, lm)
    hook.remove()
    whole, bare, computed = [], [], []
    for _ in range(given.repeats):
        before = time.process_time()
        bare.append(replay(opened.model, calls))
        between = time.process_time()
        whole.append(evaluated(folder, given.items_here, lm))
        computed.append((time.process_time() - between) / (between - before))
    alone, wall = median(bare), median(whole)
    first, *_ = calls[0][0]
    return {
        "items": given.items_here,
        "calls": len(calls),
        "longest_prompt_tokens": first.shape[1],
        "bare_ms": round(1000 * alone / given.items_here, 1),
        "evaluated_ms": round(1000 * wall / given.items_here, 1),
        "overhead_percent": round(100 * (wall / alone - 1), 2),
        "overhead_ms_an_item": round(1000 * (wall - alone) / given.items_here, 2),
        "overhead_processor_percent": round(100 * (median(computed) - 1), 2),
    }


def measure(items: int, folder: Path) -> dict[str, float]:
    """Return what evaluating the stub costs over its sleep."""
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
    parser.add_argument("--items", type=int, default=300, help="asked of the stub")
    parser.add_argument("--items-here", type=int, default=64, help="asked of the model")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of the model")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=8, help="as in `bielik evaluate`")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_data(folder / "data", max(8, given.items, given.items_here))
        found: dict[str, Any] = measure(given.items, folder)
        found["in_process"] = measure_here(folder, given)
    if given.json:
        print(json.dumps(found))
        return
    own = found.pop("in_process")
    for title, rows in (("the stub", found), ("a model in this process", own)):
        print(title)
        for name, value in rows.items():
            print(f"  {name.replace('_', ' '):<46} {value:>10}")


if __name__ == "__main__":
    main()
