"""Our settings of GRPO as TRL's, and what writes the answers."""

from pathlib import Path
from typing import Any

import torch
from trl import GRPOConfig as TrlConfig

from nemo_bielik.align.grpo import GrpoConfig
from nemo_bielik.errors import ConfigError
from nemo_bielik.training import OptimConfig

#: Rank 0 alone answers the held-out tasks; what others wait for takes no longer than this.
_PATIENCE_SECONDS = 24 * 3600


class _Arguments(TrlConfig):  # type: ignore[misc]
    """TRL's settings; of several processes on CPUs accelerate numbers the CPU too.

    Onto a "cpu:1" torch loads no checkpoint.
    """

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        found: torch.device = super().device
        return torch.device("cpu") if found.type == "cpu" else found


def trl_arguments(config: GrpoConfig, work: Path, ends: list[int]) -> TrlConfig:
    """Return TRL's settings of a run; on several ranks making them joins the process group.

    Answers stop at any id of `ends`.

    Raises `ConfigError` where vLLM is asked for and cannot be had, or shards where there is no GPU.
    """
    on_gpu = torch.cuda.is_available()
    if config.shard and not on_gpu:
        raise ConfigError(
            "shard=true needs GPUs (FSDP splits nothing on CPUs); leave it out: every process then "
            "holds the whole model"
        )
    per_update = config.micro_batch_size * config.parallel.data
    return _Arguments(
        output_dir=str(work),
        max_steps=config.iters,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.answers_per_step // per_update,
        num_generations=config.group_size,
        num_iterations=config.updates_per_batch,
        max_completion_length=config.max_answer_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=0,  # all
        loss_type=config.loss,
        scale_rewards="none" if config.loss == "dr_grpo" else "group",
        epsilon=config.clip_low,
        epsilon_high=config.clip_high,
        beta=config.kl_beta,
        # what the reference model is loaded with; the policy is loaded already
        model_init_kwargs={
            "device_map": None,
            "local_files_only": True,
            "dtype": "bfloat16" if config.precision == "bf16" else "float32",
        },
        bf16=config.precision == "bf16",
        gradient_checkpointing=config.recompute,
        use_cpu=not on_gpu,
        ddp_backend="gloo" if config.parallel.data > 1 and not on_gpu else None,
        ddp_timeout=_PATIENCE_SECONDS,
        ddp_find_unused_parameters=False,
        fsdp="full_shard auto_wrap" if config.shard else "",
        seed=config.seed,
        logging_steps=1,
        save_strategy="steps" if config.save_interval else "no",
        save_steps=config.save_interval or 1,
        save_total_limit=2,  # the newer one may be torn by a kill
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        **_optimizer(config.optim),
        **_generation(config, on_gpu, ends),
    )


def _optimizer(optim: OptimConfig) -> dict[str, Any]:
    """Return AdamW with the rate's course."""
    cosine = optim.decay == "cosine"
    return {
        "optim": "adamw_torch",
        "learning_rate": optim.max_lr,
        "lr_scheduler_type": "cosine_with_min_lr" if cosine else "constant_with_warmup",
        "lr_scheduler_kwargs": {"min_lr": optim.min_lr} if cosine else {},
        "warmup_steps": optim.warmup_iters,
        "weight_decay": optim.weight_decay,
        "adam_beta1": optim.beta1,
        "adam_beta2": optim.beta2,
        "max_grad_norm": optim.clip_grad,
    }


def _generation(config: GrpoConfig, on_gpu: bool, ends: list[int]) -> dict[str, Any]:
    """Return what makes TRL write answers with vLLM or transformers, and end them."""
    from trl.import_utils import is_vllm_available

    can = on_gpu and is_vllm_available()
    if config.generation == "transformers" or (config.generation == "auto" and not can):
        return {"generation_kwargs": {"eos_token_id": ends}}
    if not can:
        raise ConfigError(
            "generation=vllm needs a CUDA device and the package vllm (docs/grpo.md says which); "
            "choose generation=transformers"
        )
    found = {"use_vllm": True, "generation_kwargs": {"stop_token_ids": ends}}
    if config.vllm_server:
        return found | {"vllm_mode": "server", "vllm_server_base_url": config.vllm_server}
    return found | {
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": config.vllm_memory,
    }
