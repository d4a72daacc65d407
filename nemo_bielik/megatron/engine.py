"""Run one training: settings in, Hugging Face directory out. The only builder of Bridge configs.

Everything unfinished lies in ``.OUTPUT.work`` beside the output (checkpoints, metrics, logs); the
output itself appears whole at the end, and the same command continues after a kill.
"""

import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.bridge.training.callbacks import Callback
from megatron.bridge.training.config import (
    CheckpointConfig,
    ConfigContainer,
    DistributedDataParallelConfig,
    DistributedInitConfig,
    LoggerConfig,
    OptimizerConfig,
    RNGConfig,
    SchedulerConfig,
    TokenizerConfig,
    TrainingConfig,
)
from megatron.bridge.training.initialize import destroy_global_state
from megatron.bridge.training.pretrain import pretrain

from nemo_bielik.manifest import Manifest
from nemo_bielik.megatron.batches import PackedText, require_packable
from nemo_bielik.megatron.callbacks import BestWeights, Export, Metrics, read_summary
from nemo_bielik.megatron.checkpoints import last_complete, sealed_checkpoints
from nemo_bielik.megatron.cpu import on_cpu
from nemo_bielik.megatron.lora import adapt
from nemo_bielik.megatron.model import (
    distributed_session,
    model_provider,
    on_rank_zero,
    open_bridge,
    quiet,
)
from nemo_bielik.megatron.objectives import Objective
from nemo_bielik.megatron.sparse import keep_zeros
from nemo_bielik.megatron.stability import RollBack, StepGuard, steps_to_skip
from nemo_bielik.megatron.upstream_fixes import install_checkpoint_queue, install_sharded_adam
from nemo_bielik.stages import is_done, stage_output
from nemo_bielik.training import TrainConfig, work_directory


def run_training(config: TrainConfig, objective: Objective, manifest: Manifest) -> None:
    """Train `config.model` by `objective` and publish `config.output` with `manifest`.

    Every rank calls it. Raises `StorageError` if another recipe's work lies in the way.
    """
    work = work_directory(config.output)
    with distributed_session():
        if on_rank_zero(lambda: is_done(config.output, manifest)):
            return
        on_rank_zero(lambda: _open_work(work, manifest))
        while not _trained(config, objective, work):
            destroy_global_state()
        on_rank_zero(lambda: _publish(config, work, manifest))


def _trained(config: TrainConfig, objective: Objective, work: Path) -> bool:
    """Train from the last whole checkpoint; return False where a harmful step rolls it back."""
    last_complete(work / "checkpoints")
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        with quiet(work / f"engine.rank{dist.get_rank()}.log"):
            _train(config, objective, work)
    except RollBack as step:
        if dist.get_rank() == 0:
            print(f"{step}; rolling back to the last checkpoint", file=sys.stderr, flush=True)
        return False
    finally:  # Bridge answers the signal, but gives it back only after a run that ended well
        signal.signal(signal.SIGTERM, terminate)
    return True


def _train(config: TrainConfig, objective: Objective, work: Path) -> None:
    install_checkpoint_queue()
    install_sharded_adam()
    require_packable(config.micro_batch_size, config.parallel.pipeline)
    bridge = open_bridge(config.model)
    guard = StepGuard(config, work)
    callbacks: list[Callback] = [
        guard,
        Metrics(work / "metrics.jsonl", config),
        Export(bridge, config.model, work / "last"),
    ]
    if config.keep == "best":
        callbacks.append(BestWeights(bridge, config.model, work / "best"))
    provider = model_provider(bridge, config.parallel, config.precision, config.sequence_length)
    if config.keep_zeros:
        callbacks.insert(0, keep_zeros(provider))
    provider = objective.prepare(provider, config)
    container = _container(config, provider, work)
    if config.lora.rank:
        adapt(container, config.lora, config.seed)
    container.train.iterations_to_skip = steps_to_skip(guard.incidents)
    with sealed_checkpoints():
        pretrain(container, guard.watch(objective), callbacks=callbacks)


def _container(config: TrainConfig, provider: Any, work: Path) -> ConfigContainer:
    checkpoints = str(work / "checkpoints") if config.save_interval else None
    distributed_optimizer = config.parallel.data > 1
    evaluates = bool(config.eval_interval)
    return ConfigContainer(
        model=provider,
        train=TrainingConfig(
            train_iters=config.iters,
            global_batch_size=config.global_batch_size,
            micro_batch_size=config.micro_batch_size,
            eval_interval=config.eval_interval or config.iters,
            eval_iters=config.eval_iters if evaluates else 0,
            exit_signal_handler=checkpoints is not None,
        ),
        optimizer=_optimizer(config, distributed_optimizer),
        scheduler=SchedulerConfig(
            lr_decay_style=config.optim.decay,
            lr_decay_iters=config.iters,
            lr_warmup_iters=config.optim.warmup_iters,
            start_weight_decay=config.optim.weight_decay,
            end_weight_decay=config.optim.weight_decay,
            weight_decay_incr_style="constant",
        ),
        ddp=DistributedDataParallelConfig(
            grad_reduce_in_fp32=True,
            use_distributed_optimizer=distributed_optimizer,
            overlap_grad_reduce=False,
            overlap_param_gather=False,
            check_for_nan_in_grad=False,  # it would end one rank; `StepGuard` asks all of them
        ),
        dataset=PackedText(
            train=config.train_data,
            validation=config.validation_data if evaluates else None,
            cache=work / "index",
            seq_length=config.sequence_length,
            seed=config.seed,
            eval_samples=config.eval_iters * config.global_batch_size,
            vocab_size=provider.vocab_size,
            dataloader_type="single",
            num_workers=0,
            persistent_workers=False,
        ),
        logger=LoggerConfig(log_interval=10, tensorboard_dir=str(work / "tensorboard")),
        # the text is tokens already: Bridge needs to know their number alone
        tokenizer=TokenizerConfig(tokenizer_type="NullTokenizer", vocab_size=provider.vocab_size),
        checkpoint=CheckpointConfig(
            save=checkpoints,
            load=checkpoints,
            save_interval=config.save_interval or None,
            most_recent_k=2,
            ckpt_format="torch_dist",
            fully_parallel_save=not on_cpu(),
            async_save=False,
            save_tokenizer_assets=False,
        ),
        rng=RNGConfig(seed=config.seed),
        dist=DistributedInitConfig(
            distributed_backend="gloo" if on_cpu() else "nccl",
            use_gloo_process_groups=True,
        ),
        mixed_precision=None,
    )


def _optimizer(config: TrainConfig, distributed: bool) -> OptimizerConfig:
    return OptimizerConfig(
        optimizer="adam",
        lr=config.optim.max_lr,
        min_lr=config.optim.min_lr,
        weight_decay=config.optim.weight_decay,
        adam_beta1=config.optim.beta1,
        adam_beta2=config.optim.beta2,
        clip_grad=config.optim.clip_grad,
        bf16=config.precision == "bf16",
        fp16=False,
        params_dtype=torch.bfloat16 if config.precision == "bf16" else torch.float32,
        use_distributed_optimizer=distributed,
    )


def _open_work(work: Path, manifest: Manifest) -> None:
    if not is_done(work, manifest):
        work.mkdir(parents=True, exist_ok=True)
        manifest.save(work)


def _publish(config: TrainConfig, work: Path, manifest: Manifest) -> None:
    results = read_summary(work / "metrics.jsonl")
    started = time.monotonic() - results["seconds"]
    with stage_output(config.output, manifest, results, started=started) as scratch:
        for path in (work / config.keep).iterdir():
            path.rename(scratch / path.name)
        (scratch / "training").mkdir()
        for name in ("metrics.jsonl", "incidents.jsonl", "tensorboard"):
            if (work / name).exists():
                (work / name).rename(scratch / "training" / name)
    shutil.rmtree(work)
