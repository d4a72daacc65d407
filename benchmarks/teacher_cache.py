"""How near distillation from a teacher cache comes to the live teacher, by tokens kept.

Usage: ``python benchmarks/teacher_cache.py [--json] [--run runs/demo] [--k 8 16 … 512] [--rows 256]
[--students pruned distilled-seed1] [--temperature 1]``. For every k and type a cache of the run's
teacher over `rows` sequences of its recovery text is written as `bielik cache-teacher` does; then
loss and gradients of every student on these sequences are those of the engine's objective, with the
live teacher and with each cache:

bytes    of a token on disk
missed   what the live teacher's loss is missed by, per token; fewer classes are always below
cosine   between the gradients of all of the student's weights and those of the live teacher

The last k is the whole vocabulary in float32: what is left is rounding.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEQUENCE_LENGTH, BATCH = 64, 16


def write_caches(options: argparse.Namespace, folder: Path) -> dict[tuple[int, str], Path]:
    """Write a cache for every k and type and return their directories."""
    from nemo_bielik.checkpoint import Checkpoint
    from nemo_bielik.distill.cache_stage import CacheTeacherConfig, cache_teacher

    teacher = options.run / "models" / "teacher"
    vocabulary = Checkpoint.open(teacher).arch.vocab_size
    wanted = [(k, dtype) for k in options.k for dtype in ("float16", "float32") if k < vocabulary]
    found: dict[tuple[int, str], Path] = {}
    for k, dtype in [*wanted, (vocabulary, "float32")]:
        found[k, dtype] = folder / f"{k}-{dtype}"
        cache_teacher(
            CacheTeacherConfig(
                teacher=teacher,
                train_data=options.run / "tokens" / "recovery",
                output=found[k, dtype],
                iters=options.rows // BATCH,
                global_batch_size=BATCH,
                micro_batch_size=BATCH,
                sequence_length=SEQUENCE_LENGTH,
                k=k,
                dtype=dtype,  # type: ignore[arg-type]
                temperatures=[options.temperature],
            )
        )
    return found


def loss_and_gradient(options: argparse.Namespace, student: str, source: Any, work: Path) -> Any:
    """Return the loss of a token, and the gradients of all weights in one vector."""
    import torch

    from nemo_bielik.distill.loss_config import LossConfig
    from nemo_bielik.megatron.model import distributed_session, model_provider, open_bridge
    from nemo_bielik.megatron.objectives import Distillation
    from nemo_bielik.training import OptimConfig, TrainConfig

    config = TrainConfig(
        model=options.run / "models" / student,
        train_data=options.run / "tokens" / "recovery",
        output=work / "student",
        sequence_length=SEQUENCE_LENGTH,
        iters=options.rows // BATCH,
        global_batch_size=BATCH,
        micro_batch_size=BATCH,
        optim=OptimConfig(warmup_iters=0),
    )
    with distributed_session():
        objective = Distillation(source, LossConfig(temperature=options.temperature))
        provider = model_provider(
            open_bridge(config.model), config.parallel, config.precision, SEQUENCE_LENGTH
        )
        provider = objective.prepare(provider, config)
        provider.finalize()
        provider.initialize_model_parallel(seed=1)
        model = provider.provide_distributed_model(wrap_with_ddp=False)[0]
        total = tokens = 0.0
        for batch in batches(config, provider.vocab_size, work):
            output, loss = objective(None, iter([batch]), model)
            value, count, _ = loss(output)
            value.backward()  # type: ignore[no-untyped-call]
            total, tokens = total + float(value.detach()), tokens + int(count)
        slopes = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
        return total / tokens, torch.cat(slopes) / tokens


def batches(config: Any, vocab_size: int, work: Path) -> Iterator[Any]:
    from torch.utils.data import default_collate

    from nemo_bielik.megatron.teacher_cache import text_rows

    rows = text_rows(config, vocab_size, False, work / "index")
    for start in range(0, len(rows), BATCH):
        yield default_collate([rows[number] for number in range(start, start + BATCH)])


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return one row of figures for every student, k and type."""
    import torch

    from nemo_bielik.manifest import Manifest
    from nemo_bielik.megatron.teacher import LiveTeacher
    from nemo_bielik.megatron.teacher_cache import CachedTeacher

    caches, rows = write_caches(options, folder), []
    for student in options.students:
        live = LiveTeacher(options.run / "models" / "teacher")
        expected, slopes = loss_and_gradient(options, student, live, folder)
        for (k, dtype), cache in caches.items():
            source = CachedTeacher(cache, options.temperature)
            found, cached_slopes = loss_and_gradient(options, student, source, folder)
            rows.append(
                {
                    "student": student,
                    "k": k,
                    "dtype": dtype,
                    "bytes_per_token": Manifest.load(cache).results["bytes_per_token"],
                    "live_loss": expected,
                    "loss_error": abs(found - expected),
                    "gradient_cosine": float(
                        torch.nn.functional.cosine_similarity(slopes, cached_slopes, dim=0)
                    ),
                }
            )
    return rows


def main() -> int:
    """Measure and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a demo's directory")
    parser.add_argument("--k", type=int, nargs="+", default=[2**n for n in range(3, 10)])
    parser.add_argument("--students", nargs="+", default=["pruned", "distilled-seed1"])
    parser.add_argument("--rows", type=int, default=256, help="sequences, a multiple of 16")
    parser.add_argument("--temperature", type=float, default=1.0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        rows = measure(options, Path(folder))
    if options.json:
        shape = {"rows": options.rows, "sequence_length": SEQUENCE_LENGTH}
        print(json.dumps({**shape, "temperature": options.temperature, "cases": rows}, indent=2))
    else:
        print_table(rows)
    return 0


def print_table(rows: list[dict[str, Any]]) -> None:
    titles = f"{'bytes':>7}{'live loss':>11}{'missed by':>11}{'cosine':>12}"
    print(f"{'student':<16}{'k':>6} {'dtype':<8}{titles}")
    for row in rows:
        name = f"{row['student']:<16}{row['k']:>6} {row['dtype']:<8}{row['bytes_per_token']:>7,}"
        print(
            f"{name}{row['live_loss']:>11.5f}{row['loss_error']:>11.2e}"
            f"{row['gradient_cosine']:>12.8f}"
        )


if __name__ == "__main__":
    sys.exit(main())
