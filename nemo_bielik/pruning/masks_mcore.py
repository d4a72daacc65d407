"""Learn Sheared LLaMA's masks on the Megatron model: the loop, and what survives a kill.

Everything unfinished lies in ``.OUTPUT.work`` beside the output: metrics.jsonl and, every
`save_interval` steps, the state from which the same command continues, on another layout too: all
ranks draw the same masks and read their share of the same sequences. Where the learned shape misses
its target, only the curve stays there, and any settings may start anew.
"""

import json
import time
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifact_files import load_arrays, save_arrays
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError
from nemo_bielik.manifest import MANIFEST_NAME, Manifest
from nemo_bielik.megatron.batches import require_packable
from nemo_bielik.megatron.model import on_rank_zero
from nemo_bielik.progress import progress
from nemo_bielik.pruning import hard_concrete
from nemo_bielik.pruning.calibration_mcore import calibration_model
from nemo_bielik.pruning.domains_mcore import DomainText, check_batches
from nemo_bielik.pruning.mask_hooks_mcore import MaskedModel
from nemo_bielik.pruning.mask_learning import MaskLearner
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.pruning.sheared_llama import MASKS_NAME, MaskTable
from nemo_bielik.pruning.shearing import domain_names, target_shape
from nemo_bielik.stages import claim_work, stage_output

_STATE, _METRICS = "state.safetensors", "metrics.jsonl"


def collect(config: ScoreConfig, checkpoint: Checkpoint, manifest: Manifest) -> None:
    """Learn the masks for `config.shearing.target` and publish `config.output`.

    Every rank calls it. Raises `ConfigError` for settings that do not fit the model or each
    other, and where the learned shape misses its target by more than `shearing.tolerance`.
    Raises `StorageError` if another recipe's unfinished work lies in the way.
    """
    started = time.monotonic()
    target = target_shape(checkpoint.arch, config.shearing.target)
    check_batches(config, len(domain_names(config.data, config.shearing.domains)) > 1)
    require_packable(config.micro_batch_size, config.parallel.pipeline)
    with calibration_model(config) as (_, model, work):
        on_rank_zero(lambda: claim_work(work, manifest, ignore=("parallel",)))
        learner, text = learn(config, checkpoint.arch, target, model, work)
        table = mask_table(learner, checkpoint.arch, target, checkpoint.fingerprint())
        on_rank_zero(lambda: _publish(config, manifest, table, text, work, started))


def mask_table(learner: MaskLearner, source: ModelArch, target: ModelArch, model: str) -> MaskTable:
    """Return what was learned; `model` is the fingerprint of the checkpoint."""
    learned = {name: log_alpha.detach() for name, log_alpha in learner.log_alpha.items()}
    return MaskTable(
        arch=source,
        target=target,
        log_alpha={name: x.numpy() for name, x in learned.items()},
        open_probability={
            name: hard_concrete.open_probability(x).numpy() for name, x in learned.items()
        },
        expected={name: hard_concrete.expected_value(x).numpy() for name, x in learned.items()},
        model=model,
    )


def learn(
    config: ScoreConfig, source: ModelArch, target: ModelArch, model: list[Any], work: Path
) -> tuple[MaskLearner, DomainText]:
    """Take the steps that are left, on every rank; return what was learned, on which text."""
    learner = MaskLearner(config.shearing, source, target)
    text = DomainText(config, source.vocab_size, work / "index")
    _restore(learner, text, work)
    masked = MaskedModel(model, source, config)
    with masked.attached():
        text.measure_references(masked)
        if dist.get_rank() == 0:
            _forget_after(learner.step, work / _METRICS)
        _take_steps(config, learner, masked, text, work)
    return learner, text


def _take_steps(
    config: ScoreConfig, learner: MaskLearner, masked: MaskedModel, text: DomainText, work: Path
) -> None:
    """Take `iters` steps, and then up to a quarter more until every size is met."""
    settings, writes = config.shearing, dist.get_rank() == 0
    steps = range(learner.step, settings.iters + settings.iters // 4)
    bar = progress(steps, desc=config.output.name, unit="step", show=writes)
    for step in bar:
        if step >= settings.iters and learner.settled():
            break
        masks = learner.draw(config.seed)
        loss, slopes = masked.gradients(masks, text.batches(step))
        learner.learn(masks, slopes)
        text.update(masked, learner)
        bar.set_postfix(loss=f"{loss:.3f}", off=f"{learner.worst_excess():.4f}", refresh=False)
        if writes:
            _record(loss, learner, text, work / _METRICS)
            if settings.save_interval and learner.step % settings.save_interval == 0:
                _save(learner, text, work / _STATE)


def _record(loss: float, learner: MaskLearner, text: DomainText, metrics: Path) -> None:
    """Append what a step gave: `open` is the mean expected number of units of a constraint."""
    shares = {name: float(share.detach().mean()) for name, share in learner.shares().items()}
    figures = {
        "step": learner.step,
        "loss": loss,
        "worst_excess": learner.worst_excess(),
        "open": {name: learner.counts[name][0] * share for name, share in shares.items()},
        "domains": dict(zip(text.names, text.weights, strict=True)),
    }
    with metrics.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(figures) + "\n")


def _forget_after(step: int, metrics: Path) -> None:
    """Drop the lines of steps that a killed run took after its last saved state."""
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
    metrics.write_text("".join(f"{line}\n" for line in lines[:step]), encoding="utf-8")


def _save(learner: MaskLearner, text: DomainText, path: Path) -> None:
    metadata = {"step": learner.step, "domains": text.state()}
    save_arrays(path, "mask learning state", metadata, learner.state())


def _restore(learner: MaskLearner, text: DomainText, work: Path) -> None:
    path = work / _STATE
    if path.is_file():
        metadata, arrays = load_arrays(path, "mask learning state", "bielik score")
        learner.restore(arrays, metadata["step"])
        text.restore(metadata["domains"])
    dist.barrier()  # rank 0 saves again only when all have read


def _publish(
    config: ScoreConfig,
    manifest: Manifest,
    table: MaskTable,
    text: DomainText,
    work: Path,
    started: float,
) -> None:
    if table.misses():
        _give_up(config.output, table.misses(), work)
    curve = [json.loads(line) for line in (work / _METRICS).read_text("utf-8").splitlines()]
    results: dict[str, Any] = {
        "open": curve[-1]["open"],
        "worst_excess": curve[-1]["worst_excess"],
        "undecided": table.undecided(),
        "kept_layers": table.kept_layers(),
        "domains": curve[-1]["domains"],
        "reference_losses": dict(zip(text.names, text.references, strict=False)),
        "sequences_read": dict(zip(text.names, text.taken, strict=True)),
    }
    with stage_output(config.output, manifest, results, started=started) as scratch:
        table.save(scratch / MASKS_NAME)
        (work / _METRICS).rename(scratch / _METRICS)


def _give_up(output: Path, misses: list[str], work: Path) -> NoReturn:
    """Say what was missed, and let other settings have `work`; the claim goes last."""
    for name in (_STATE, MANIFEST_NAME):
        (work / name).unlink(missing_ok=True)
    more = f" and {len(misses) - 1} more" if len(misses) > 1 else ""
    raise ConfigError(
        f"{output}: the learned shape misses its target ({misses[0]}{more}); raise shearing.iters "
        f"or shearing.multiplier_lr and run again; the curve is in {work / _METRICS}"
    )
