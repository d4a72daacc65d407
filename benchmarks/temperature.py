"""What the temperature of the distillation loss does to what comes back, on a finished demo run.

Usage: ``python benchmarks/temperature.py --run runs/demo [--json] [--lanes 2]``. The demo's pruned
model is distilled from its teacher at every temperature with every seed, by the demo's own settings
(`recipes/tiny.py`) and T alone changed, then evaluated as the demo does it. Work lies in
``runs/temperature`` (``--output``); what is there already is not made again, so a killed run
continues. ``--max-lr`` (with an output of its own) repeats it with another peak learning rate, to
see that T is not one in disguise.

Recovery is the demo's: the student's share of the teacher's score above the better n-gram model,
mean of minimal pairs and facts. Seeds are paired: the same seed is the same order of the text at
every T, so the difference from T = 1 is taken seed by seed.
"""

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_bielik.launch.lanes import Lanes, collect
from nemo_bielik.pipeline import DISTILL, EVALUATE, Chain, PipelineConfig
from nemo_bielik.recipes import tiny
from nemo_bielik.runs import PRUNED, Run
from nemo_bielik.summary import MEASURES, recovery_by_measure
from nemo_bielik.training import TrainSettings

TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 4.0)
SEEDS = (1, 2, 3)


def name(temperature: float, seed: int) -> str:
    """Return what the model of one run is called."""
    return f"t{temperature:g}-seed{seed}"


def settings(max_lr: float | None) -> TrainSettings:
    """Return the recipe's settings, with another peak rate and its floor in proportion if given."""
    recovery = tiny.recovery()
    if max_lr is not None:
        share = recovery.optim.min_lr / recovery.optim.max_lr
        recovery.optim = replace(recovery.optim, max_lr=max_lr, min_lr=max_lr * share)
    return recovery


def make(chain: Chain, work: Run, temperatures: tuple[float, ...], seeds: tuple[int, ...]) -> None:
    """Distil and evaluate every temperature with every seed, as many at once as there are lanes."""
    runs = [(temperature, seed) for seed in seeds for temperature in temperatures]
    pruned = chain.run.model(PRUNED)
    distillations, evaluations = [], []
    for temperature, seed in runs:
        called = name(temperature, seed)
        output = work.model(called)
        distillation = chain.distillation(pruned, called, seed)
        distillations.append(replace(distillation, output=output, temperature=temperature))
        evaluation = chain.evaluation(called, output)
        evaluations.append(replace(evaluation, output=work.evaluation(called)))
    collect([chain.lanes.submit(DISTILL, config) for config in distillations])
    collect([chain.lanes.submit(EVALUATE, config) for config in evaluations])


def read(
    demo: Run, work: Run, temperatures: tuple[float, ...], seeds: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Return a row a temperature: figures of every seed, their mean and standard deviation."""
    summary = json.loads(demo.summary.read_text(encoding="utf-8"))
    rows = []
    for temperature in temperatures:
        found = []
        for seed in seeds:
            path = work.evaluation(name(temperature, seed)) / "results.json"
            scores = json.loads(path.read_text(encoding="utf-8"))
            share = recovery_by_measure(scores, summary["teacher"], summary["baseline"])
            recovery = statistics.fmean(share[measure] or 0.0 for measure in MEASURES)
            kept = {measure: 100 * scores[measure] for measure in MEASURES}
            found.append({"recovery": recovery, "perplexity": scores["perplexity"], **kept})
        rows.append({"temperature": temperature, **spread(found)})
    for row in rows:
        differences = [
            mine - first
            for mine, first in zip(
                row["recovery"]["seeds"], rows[0]["recovery"]["seeds"], strict=True
            )
        ]
        row["difference"] = spread([{"recovery": x} for x in differences])["recovery"]
    return rows


def spread(found: list[dict[str, float]]) -> dict[str, Any]:
    """Return every figure's values, mean and standard deviation over seeds (0 of one)."""
    result = {}
    for figure in found[0]:
        values = [row[figure] for row in found]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        result[figure] = {"seeds": values, "mean": statistics.fmean(values), "deviation": deviation}
    return result


def print_table(rows: list[dict[str, Any]]) -> None:
    first = rows[0]["temperature"]
    print(
        f"{'T':>4}  {'recovery, %':>14}  {f'minus T={first:g}':>14}  {'perplexity':>14}"
        f"  {'pairs, %':>14}  {'facts, %':>14}"
    )
    for row in rows:
        figures = ("recovery", "difference", "perplexity", *MEASURES)
        cells = [f"{row[x]['mean']:.2f} ± {row[x]['deviation']:.2f}" for x in figures]
        print(f"{row['temperature']:>4g}  " + "  ".join(f"{cell:>14}" for cell in cells))


def main() -> int:
    """Make what is missing and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished demo run")
    parser.add_argument("--output", type=Path, default=Path("runs/temperature"))
    parser.add_argument("--temperatures", type=float, nargs="+", default=list(TEMPERATURES))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--max-lr", type=float, help="peak learning rate (default: the recipe's)")
    parser.add_argument("--lanes", type=int, default=2, help="runs side by side (default: 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    temperatures, seeds = tuple(options.temperatures), tuple(options.seeds)
    work = Run(options.output)
    with Lanes(options.lanes) as lanes:
        config = PipelineConfig(output=options.run, recovery=settings(options.max_lr))
        chain = Chain(config, lanes)
        make(chain, work, temperatures, seeds)
    rows = read(chain.run, work, temperatures, seeds)
    if options.json:
        recovery = chain.config.recovery
        told = {"recovery_tokens": recovery.tokens, "max_lr": recovery.optim.max_lr}
        print(json.dumps({**told, "temperatures": rows}, indent=2))
    else:
        print_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
