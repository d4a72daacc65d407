"""A training run's settings as Megatron-Bridge's `ConfigContainer`; nothing else builds one."""

import os
from pathlib import Path
from typing import Any

import torch
from megatron.bridge.training.config import (
    CheckpointConfig,
    ConfigContainer,
    DistributedDataParallelConfig,
    DistributedInitConfig,
    FaultToleranceConfig,
    LoggerConfig,
    OptimizerConfig,
    ProfilingConfig,
    RNGConfig,
    SchedulerConfig,
    TokenizerConfig,
    TrainingConfig,
)

from nemo_bielik.megatron.batches import PackedText
from nemo_bielik.megatron.cpu import on_cpu
from nemo_bielik.phases import Stretch
from nemo_bielik.training import TrainConfig


def bridge_config(stretch: Stretch, provider: Any, work: Path) -> ConfigContainer:
    """Return what `pretrain` needs to train `provider`'s model over `stretch`, within `work`."""
    config = stretch.config
    return ConfigContainer(
        model=provider,
        train=_steps(stretch),
        optimizer=_optimizer(config),
        scheduler=_schedule(config),
        ddp=_gradients(config),
        dataset=training_text(stretch, work, provider.vocab_size),
        logger=LoggerConfig(log_interval=10),  # the rest is `trackers.py`'s
        # the text is tokens already: Bridge needs to know their number alone
        tokenizer=TokenizerConfig(tokenizer_type="NullTokenizer", vocab_size=provider.vocab_size),
        checkpoint=_checkpoints(config, work),
        rng=RNGConfig(seed=config.seed),
        dist=DistributedInitConfig(
            distributed_backend="gloo" if on_cpu() else "nccl",
            use_gloo_process_groups=True,
        ),
        mixed_precision=None,
        profiling=_profile(config),
        ft=FaultToleranceConfig(enable_ft_package=_watched() and bool(config.save_interval)),
    )


def _profile(config: TrainConfig) -> ProfilingConfig | None:
    """Bridge counts the steps that are done, and tells nsys through CUDA."""
    if not config.logging.profile_steps or on_cpu():
        return None
    first, last = config.logging.profile_steps
    return ProfilingConfig(
        use_nsys_profiler=True, profile_step_start=first - 1, profile_step_end=last
    )


def _watched() -> bool:
    """Whether ``ft_launcher`` started this rank and waits for word of its progress."""
    return "FT_RANK_MONITOR_IPC_SOCKET" in os.environ


def _steps(stretch: Stretch) -> TrainingConfig:
    config = stretch.config
    return TrainingConfig(
        train_iters=stretch.last_step,
        global_batch_size=config.global_batch_size,
        micro_batch_size=config.micro_batch_size,
        eval_interval=config.eval_interval or config.iters,
        eval_iters=config.eval_iters if config.eval_interval else 0,
        exit_signal_handler=bool(config.save_interval),
    )


def _optimizer(config: TrainConfig) -> OptimizerConfig:
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
        # with one data-parallel rank too: its checkpoints alone can be loaded in any layout
        use_distributed_optimizer=True,
    )


def _schedule(config: TrainConfig) -> SchedulerConfig:
    return SchedulerConfig(
        lr_decay_style=config.optim.decay,
        lr_decay_iters=config.iters,
        lr_warmup_iters=config.optim.warmup_iters,
        start_weight_decay=config.optim.weight_decay,
        end_weight_decay=config.optim.weight_decay,
        weight_decay_incr_style="constant",
        # a checkpoint of another phase counts in that phase's batches
        override_opt_param_scheduler=True,
    )


def _gradients(config: TrainConfig) -> DistributedDataParallelConfig:
    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=True,
        overlap_grad_reduce=False,
        overlap_param_gather=False,
        check_for_nan_in_grad=False,  # it would end one rank; `StepGuard` asks all of them
    )


def training_text(stretch: Stretch, work: Path, vocab_size: int) -> PackedText:
    """Return what a stretch of steps reads; its index files go to `work`."""
    config = stretch.config
    return PackedText(
        train=config.train_data,
        validation=config.validation_data if config.eval_interval else None,
        cache=work / "index",
        seq_length=config.sequence_length,
        seed=config.seed,
        samples=stretch.samples,
        first_sample=stretch.first_sample,
        weights=config.train_weights,
        packing=config.packing,
        epochs=getattr(config, "epochs", 0),
        eval_samples=config.eval_iters * config.global_batch_size,
        vocab_size=vocab_size,
        dataloader_type="single",
        num_workers=0,
        persistent_workers=False,
    )


def _checkpoints(config: TrainConfig, work: Path) -> CheckpointConfig:
    directory = str(work / "checkpoints") if config.save_interval else None
    return CheckpointConfig(
        save=directory,
        load=directory,
        save_interval=config.save_interval or None,
        most_recent_k=-1,  # `saves.py` removes the old ones, once the new one is sealed
        ckpt_format="torch_dist",
        fully_parallel_save=True,
        async_save=bool(directory),  # always through the queue of `saves.py`, which may wait
        dist_ckpt_optim_fully_reshardable=True,
        save_tokenizer_assets=False,
    )
