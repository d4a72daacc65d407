"""How far the search's choice is from the best, against training every candidate to the end.

Usage: ``python benchmarks/search.py --run runs/demo [--json] [--seeds 1 2 3] [--lanes 2]``. Ten
shapes in the pattern of the report's Table 2, all between 35 and 44 % smaller than the demo's
teacher: its own proportions leave a tiny model nearly unharmed. For each seed the search runs, and
then every candidate that it stopped is trained on from where it paused. A trial is a part of the
whole run, so that is the exhaustive run, and the search's choice is one of its models.

Regret of a choice is (its KL − the best's) / (the median's − the best's), KL on held-out text at
the end of the whole run. Beside the search: the largest candidate, a random one (the mean over
all), the best right after the cut. A choice is counted as tied with the best where their KL differ
by less than half a percent. And of every candidate's forecast from the rungs before the last one:
whether the end lay within it.

Work lies in ``runs/search`` (``--output``); what is there is not made again, so a killed run
continues. ``--search-only`` leaves the exhaustive runs out.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from nemo_bielik.launch.workers import Workers
from nemo_bielik.runs import TEACHER, Run
from nemo_bielik.search.config import SearchConfig
from nemo_bielik.search.stage import Search, open_workers, run_search
from nemo_bielik.search.tokens_needed import forecast_trial
from nemo_bielik.training import OptimConfig, TrainSettings

#: The report's ten in its order: what each cuts, made harder for a model of six layers.
CANDIDATES = (
    "hidden_size=60",  # EXP_001: width of the residual stream alone
    "ffn_hidden_size=128",  # EXP_002: ffn alone
    "num_layers=3",  # EXP_003: depth alone
    "num_layers=4,ffn_hidden_size=224",  # EXP_004: more depth than ffn
    "ffn_hidden_size=136",  # EXP_005: ffn alone, the mildest
    "num_layers=5,ffn_hidden_size=176",  # EXP_006: a little of both
    "num_layers=5,hidden_size=80,ffn_hidden_size=224",  # EXP_007: a little of all
    "num_layers=3,ffn_hidden_size=288",  # EXP_008: depth, the hardest
    "ffn_hidden_size=96",  # EXP_009: ffn alone, the hardest
    "num_layers=5,ffn_hidden_size=144",  # EXP_010: both
)
TIED = 0.005


def settings(run: Run, output: Path, seed: int, lanes: int) -> SearchConfig:
    """Return the search of one seed, the order of the text."""
    return SearchConfig(
        model=run.model(TEACHER),
        calibration=run.tokens("calibration"),
        train_data=run.tokens("recovery"),
        validation_data=run.tokens("validation"),
        output=output / f"seed{seed}",
        candidates=[f"source:{changes}" for changes in CANDIDATES],
        recovery=TrainSettings(
            iters=324,
            sequence_length=64,
            global_batch_size=16,
            micro_batch_size=16,
            eval_interval=18,
            eval_iters=8,
            optim=OptimConfig(max_lr=3e-3, min_lr=3e-4, warmup_iters=10),
        ),
        seeds=[seed],
        lanes=lanes,
    )


def measure(config: SearchConfig, workers: Workers, exhaustive: bool) -> dict[str, Any]:
    """Search and, if asked for, train everything to the end; return figures of one seed."""
    started = time.monotonic()
    search = Search(config)
    is_new = not (config.output / "search.json").exists()
    found = run_search(search, workers)
    row: dict[str, Any] = {
        "seed": config.seeds[0],
        "selected": found["selected"],
        "share_of_tokens": found["cost"]["share"],
        "tokens": found["cost"]["tokens"],
        # of a search that was resumed the wall time is not known
        "search_seconds": round(time.monotonic() - started, 1) if is_new else None,
        "after_cut": {n: kl[0] for n, kl in found["rounds"][0]["kl"].items()},
        "verdicts": {r["name"]: r["verdict"]["word"] for r in found["candidates"]},
        "sizes": {r["name"]: r["parameters"] for r in found["candidates"]},
        "reductions": {r["name"]: r["reduction_percent"] for r in found["candidates"]},
    }
    if not exhaustive:
        return row
    trials = search.trials(search.entered)
    end = config.recovery.iters
    search.train(trials, end, workers, "the others to the end")
    final = {trial.candidate.name: trial.record().kl(end) for trial in trials}
    until = search.schedule.rungs[-2].last_step
    told = {trial.candidate.name: forecast_trial(trial, until) for trial in trials}
    forecasts = {name: found["at_budget"]["kl"] for name, found in told.items() if found}
    return row | {
        "final": final,
        "regret": regrets(row, final),
        "forecasts": forecasts,
        "forecasts_held": sum(low <= final[n] <= high for n, (low, _, high) in forecasts.items()),
    }


def regrets(row: dict[str, Any], final: dict[str, float]) -> dict[str, Any]:
    """Return the regret of the search's choice and of three simpler ways to choose."""
    best, median = min(final.values()), statistics.median(final.values())
    chosen = {
        "search": row["selected"],
        "largest": max(row["sizes"], key=row["sizes"].get),
        "best right after the cut": min(row["after_cut"], key=row["after_cut"].get),
    }
    found = {
        way: {
            "chosen": name,
            "regret": (final[name] - best) / (median - best),
            "tied": final[name] <= best * (1 + TIED),
        }
        for way, name in chosen.items()
    }
    mean = statistics.fmean(final.values())
    found["random"] = {"chosen": None, "regret": (mean - best) / (median - best), "tied": False}
    return found


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print every seed's choice and regrets, and all final losses."""
    for row in rows:
        print(
            f"seed {row['seed']}: {row['selected']}, {row['share_of_tokens']:.1%} of the tokens"
            + (f", {row['search_seconds']:.0f} s" if row["search_seconds"] else "")
        )
        for way, found in row.get("regret", {}).items():
            tied = " (tied with the best)" if found["tied"] else ""
            print(f"  {way:<26} {found['chosen'] or 'any':<28} {found['regret']:6.3f}{tied}")
        for name in sorted(row.get("final", {}), key=row.get("final", {}).get):
            print(
                f"    {name:<28} {row['reductions'][name]:5.1f} % fewer  "
                f"{row['after_cut'][name]:7.4f} → {row['final'][name]:.4f}  {row['verdicts'][name]}"
            )
        if "final" in row:
            print(f"  forecasts that held: {row['forecasts_held']} of {len(row['final'])}")


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return every way's mean regret over seeds."""
    ways = rows[0]["regret"]
    return {way: statistics.fmean(row["regret"][way]["regret"] for row in rows) for way in ways}


def main() -> int:
    """Make what is missing and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished demo run")
    parser.add_argument("--output", type=Path, default=Path("runs/search"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--lanes", type=int, default=2, help="trials side by side (default: 2)")
    parser.add_argument("--search-only", action="store_true", help="no exhaustive runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        config = settings(Run(options.run), options.output, seed, options.lanes)
        with open_workers(config) as workers:
            rows.append(measure(config, workers, not options.search_only))
    mean = {} if options.search_only else means(rows)
    if options.json:
        print(json.dumps({"seeds": rows, "mean_regret": mean}, indent=2))
        return 0
    print_rows(rows)
    for way, value in mean.items():
        print(f"mean regret of {way:<26} {value:6.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
