"""Run one training: settings in, Hugging Face directory out.

Everything unfinished lies in ``.OUTPUT.work`` beside the output (checkpoints, metrics, logs); the
output itself appears whole at the end, and the same command continues after a kill.
"""

import contextlib
import dataclasses
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.bridge.training.callbacks import Callback
from megatron.bridge.training.config import ConfigContainer
from megatron.bridge.training.initialize import destroy_global_state
from megatron.bridge.training.pretrain import pretrain

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.files import explain_disk_errors, link_tree, quiet_threads_on_full_disk
from nemo_bielik.layouts import note_layout, read_layouts
from nemo_bielik.manifest import Manifest
from nemo_bielik.megatron.batches import require_packable
from nemo_bielik.megatron.bridge_config import bridge_config, training_text
from nemo_bielik.megatron.callbacks import BestWeights, Export, Metrics, Release, read_summary
from nemo_bielik.megatron.checkpoints import last_complete
from nemo_bielik.megatron.fake_quantization import quantize_layers
from nemo_bielik.megatron.lora import adapt
from nemo_bielik.megatron.model import (
    distributed_session,
    model_provider,
    on_rank_zero,
    open_bridge,
    quiet,
    recompute_layers,
    work_of_all_ranks,
)
from nemo_bielik.megatron.objectives import Objective
from nemo_bielik.megatron.packing import packing_summaries
from nemo_bielik.megatron.saves import sealed_checkpoints
from nemo_bielik.megatron.sparse import keep_zeros
from nemo_bielik.megatron.stability import RollBack, StepGuard, steps_to_skip
from nemo_bielik.megatron.upstream_fixes import (
    install_checkpoint_queue,
    install_exit_signal,
    install_sharded_adam,
)
from nemo_bielik.phases import Stretch, stretch_at
from nemo_bielik.quantize.modelopt_layers import choose_layers
from nemo_bielik.stages import stage_output
from nemo_bielik.training import TrainConfig


def run_training(
    config: TrainConfig,
    objective: Objective,
    manifest: Manifest,
    notes: Mapping[str, Any] | None = None,
    complete: Callable[[Path], None] | None = None,
) -> None:
    """Train `config.model` by `objective` and publish `config.output` with `manifest`.

    Every rank calls it. `notes` go into the manifest's results, and `complete` adds what else the
    output directory is to hold, on one rank. Raises `StorageError` if another recipe's work lies in
    the way, or where the disk is full.
    """
    with distributed_session(), work_of_all_ranks(config.output, manifest) as work:
        if work is None:
            return
        with explain_disk_errors(config.output), quiet_threads_on_full_disk():
            config = with_steps(config, work)
            while (step := _train_on(config, objective, work)) < last_step(config):
                destroy_global_state()
            if step == config.iters:
                on_rank_zero(lambda: _publish(config, work, manifest, notes or {}, complete))


def with_steps(config: TrainConfig, work: Path) -> TrainConfig:
    """Return a configuration whose steps are known, where it asks for epochs instead.

    Steps that are given take the place of epochs. Every rank calls it. The plan of the epochs' rows
    stays in `work`, where training finds it.
    """
    asked: Any = config
    if not getattr(config, "epochs", 0):
        return config
    if config.iters:
        return dataclasses.replace(asked, epochs=0)
    stretch = Stretch(config, 0, 0, 0)
    with quiet(work / f"engine.rank{dist.get_rank()}.log"):
        sources = training_text(stretch, work, vocab_size=0).whole_epochs()
    return dataclasses.replace(config, iters=-(-sum(map(len, sources)) // config.global_batch_size))


def last_step(config: TrainConfig) -> int:
    """Return the step that a run, or this part of it, ends with."""
    return config.iters if config.stop_after is None else min(config.stop_after, config.iters)


def _train_on(config: TrainConfig, objective: Objective, work: Path) -> int:
    """Train from the last whole checkpoint to the end of its phase; return the step it ends with.

    Where a harmful step rolls it back, training ends where it began.
    """
    step = last_complete(work / "checkpoints")
    if config.stop_after is not None and max(config.stop_after, 1) <= step < config.iters:
        return step
    stretch = stretch_at(config, step)
    on_rank_zero(lambda: note_layout(work, config, step))
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        with quiet(work / f"engine.rank{dist.get_rank()}.log"):
            _train(config, stretch, objective, work)
    except RollBack as step_back:
        if dist.get_rank() == 0:
            print(f"{step_back}; rolling back to the last checkpoint", file=sys.stderr, flush=True)
        return step
    finally:  # Bridge's handler answers to a run that is over now
        signal.signal(signal.SIGTERM, terminate)
    return min(stretch.last_step, last_step(config))


def _train(run: TrainConfig, stretch: Stretch, objective: Objective, work: Path) -> None:
    """Train one phase of `run`; the last one exports the model."""
    config = stretch.config
    install_checkpoint_queue()
    install_exit_signal()
    install_sharded_adam()
    require_packable(config.micro_batch_size, config.parallel.pipeline)
    bridge = open_bridge(config.model)
    guard = StepGuard(config, work)
    metrics = Metrics(work / "metrics.jsonl", run, config, objective.flops_per_token(config))
    release = Release()
    callbacks: list[Callback] = [release, guard, metrics]
    if min(stretch.last_step, last_step(run)) == run.iters:
        callbacks.append(Export(bridge, config.model, work / "last"))
    if config.keep == "best":
        callbacks.append(BestWeights(bridge, config.model, work / "best"))
    provider = model_provider(bridge, config.parallel, config.precision, config.sequence_length)
    if config.recompute:
        recompute_layers(provider)
    if config.keep_zeros:
        callbacks.insert(0, keep_zeros(provider))
    if config.quantization.format:
        layers = choose_layers(Checkpoint.open(config.model).arch, config.quantization)
        quantize_layers(provider, config.quantization.format, layers)
    provider = objective.prepare(provider, config)
    container = bridge_config(stretch, provider, work)
    if config.lora.rank:
        adapt(container, config.lora, config.seed)
    container.train.iterations_to_skip = steps_to_skip(guard.incidents)
    if run.stop_after is not None:
        _pause(container, run.stop_after)
    with (
        sealed_checkpoints(config.async_save),
        contextlib.closing(metrics),
        contextlib.closing(release),
    ):
        pretrain(container, guard.watch(objective), callbacks=callbacks)


def _pause(container: ConfigContainer, step: int) -> None:
    """Have Bridge end after `step`; the text and the rates stay those of the whole run."""
    container.train.skip_train = step == 0  # it validates all the same
    container.train.train_iters = min(container.train.train_iters, max(step, 1))


def _publish(
    config: TrainConfig,
    work: Path,
    manifest: Manifest,
    notes: Mapping[str, Any],
    complete: Callable[[Path], None] | None,
) -> None:
    """Let the output appear; until it has, the work stays as it is, for the next start."""
    results = read_summary(work / "metrics.jsonl") | {"layouts": read_layouts(work), **notes}
    packed = packing_summaries(work / "index")
    results |= {"packing": packed} if packed else {}
    started = time.monotonic() - results["seconds"]
    with stage_output(config.output, manifest, results, started=started) as scratch:
        link_tree(work / config.keep, scratch)
        if complete:
            complete(scratch)
        (scratch / "training").mkdir()
        for name in ("metrics.jsonl", "incidents.jsonl", "tensorboard", "wandb"):
            if (work / name).exists():
                link_tree(work / name, scratch / "training" / name)
    shutil.rmtree(work)
