"""A GRPO run: TRL's trainer between our tasks and a model directory."""

import os
import pickle
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig as TrlConfig
from trl import GRPOTrainer

from nemo_bielik.align import answering
from nemo_bielik.align.grpo import GrpoConfig, GrpoInputs
from nemo_bielik.align.grpo_callbacks import (
    Metrics,
    Seals,
    StopOnSignal,
    last_sealed,
)
from nemo_bielik.align.measure import print_skipped
from nemo_bielik.align.rewards.grading import Grader
from nemo_bielik.align.tasks import TaskFile, VerifiableTask
from nemo_bielik.checkpoint import Checkpoint, CheckpointWriter, copy_tokenizer
from nemo_bielik.errors import CheckpointError, ConfigError, DataError
from nemo_bielik.files import explain_disk_errors, write_json
from nemo_bielik.report.gather import read_metrics, read_object
from nemo_bielik.stages import open_work, stage_output, work_directory

METRICS = Path("training") / "metrics.jsonl"
_BEFORE = "before.json"
_GRADING_BATCH = 64


def run(inputs: GrpoInputs) -> None:
    """Train, measure on the held-out tasks before and after, and write the output."""
    started = time.monotonic()
    config = inputs.config
    writes = int(os.environ.get("RANK", "0")) == 0
    read, held_out = inputs.reader.read(config.tasks), TaskFile()
    if config.held_out:
        held_out = inputs.reader.read(config.held_out)
    with Grader(config.grading, [*read.rewards, *held_out.rewards]) as grader:
        inputs.reader.try_own_answers(read, config.tasks, grader)
        if held_out.tasks:
            inputs.reader.try_own_answers(held_out, config.held_out, grader)
        _check_number(config, read.tasks)
        work = work_directory(config.output)
        if writes:
            open_work(config.output, inputs.manifest)
        results = _before(inputs, held_out.tasks, grader, work) if writes else {}
        trainer = _trainer(inputs, read.tasks, grader, work)
        _train(trainer, config, work)
        if trainer.state.global_step < config.iters:
            raise SystemExit(0)  # by a signal; a checkpoint is saved
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if not writes:
            return
        with stage_output(config.output, inputs.manifest, results, started) as scratch:
            _write_model(inputs.checkpoint, state, scratch)
            (scratch / METRICS).parent.mkdir()
            shutil.copyfile(work / METRICS.name, scratch / METRICS)
            written = Checkpoint.open(scratch)
            results |= _measured(inputs, written, held_out.tasks, grader, "reward_after")
            results |= _training_summary(work)
            results["tasks_skipped"] = read.skipped_counts
            results["rewards_skipped"] = dict(grader.skipped)
    shutil.rmtree(work)
    print_skipped(read, grader)


def _before(
    inputs: GrpoInputs, tasks: Sequence[VerifiableTask], grader: Grader, work: Path
) -> dict[str, Any]:
    """Return what the model earns untrained, measured once however often the run is resumed."""
    found = read_object(work / _BEFORE)
    if not found:
        found = _measured(inputs, inputs.checkpoint, tasks, grader, "reward_before")
        write_json(work / _BEFORE, found)
    return found


def _measured(
    inputs: GrpoInputs,
    checkpoint: Checkpoint,
    tasks: Sequence[VerifiableTask],
    grader: Grader,
    name: str,
) -> dict[str, Any]:
    if not tasks:
        return {}
    graded = answering.grade_tasks(
        answering.open_model(checkpoint),
        inputs.reader.tokenizer,
        tasks,
        grader,
        inputs.config.max_answer_tokens,
        _GRADING_BATCH,
    )
    summary = answering.summarize(graded)
    print(f"{name.replace('_', ' ')} {answering.in_words(summary)}", flush=True)
    return {name: summary}


def _trainer(
    inputs: GrpoInputs, tasks: Sequence[VerifiableTask], grader: Grader, work: Path
) -> GRPOTrainer:
    tokenizer = inputs.reader.tokenizer.tokenizer
    rows = [{"prompt": task.messages, "task": number} for number, task in enumerate(tasks)]

    def reward(completion_ids: list[list[int]], task: list[int], **unused: Any) -> list[float]:
        asked = [tasks[number] for number in task]
        answers = [answering.read_answer(tokenizer, ids) for ids in completion_ids]
        return grader.grade(answers, [t.fields for t in asked], [t.place for t in asked])

    config = inputs.config
    trainer = GRPOTrainer(
        model=answering.load_model(inputs.checkpoint, torch.float32),
        reward_funcs=reward,
        args=_trl_config(config, work),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[StopOnSignal(), Seals(), Metrics(work / METRICS.name, config.iters)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _train(trainer: GRPOTrainer, config: GrpoConfig, work: Path) -> None:
    """Train from the last whole checkpoint; nothing in it but tensors and numbers is unpickled."""
    with explain_disk_errors(config.output):
        try:
            trainer.train(resume_from_checkpoint=last_sealed(work))
        except pickle.UnpicklingError:
            raise CheckpointError(
                f"{work}: its checkpoint holds what a checkpoint of this run does not; remove the "
                "directory and start again"
            ) from None


def _trl_config(config: GrpoConfig, work: Path) -> TrlConfig:
    optim, on_gpu = config.optim, torch.cuda.is_available()
    per_update = config.micro_batch_size * config.parallel.data
    cosine = optim.decay == "cosine"
    return TrlConfig(
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
        learning_rate=optim.max_lr,
        lr_scheduler_type="cosine_with_min_lr" if cosine else "constant_with_warmup",
        lr_scheduler_kwargs={"min_lr": optim.min_lr} if cosine else {},
        warmup_steps=optim.warmup_iters,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.beta1,
        adam_beta2=optim.beta2,
        max_grad_norm=optim.clip_grad,
        optim="adamw_torch",
        bf16=config.precision == "bf16",
        gradient_checkpointing=config.recompute,
        use_cpu=not on_gpu,
        ddp_backend="gloo" if config.parallel.data > 1 and not on_gpu else None,
        fsdp="full_shard auto_wrap" if config.shard else "",
        seed=config.seed,
        logging_steps=1,
        save_strategy="steps" if config.save_interval else "no",
        save_steps=config.save_interval or 1,
        save_total_limit=2,  # the newer one may be torn by a kill
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        **_generation(config, on_gpu),
    )


def _generation(config: GrpoConfig, on_gpu: bool) -> dict[str, Any]:
    """Return what makes TRL write answers with vLLM, nothing for transformers."""
    from trl.import_utils import is_vllm_available

    can = on_gpu and is_vllm_available()
    if config.generation == "transformers" or (config.generation == "auto" and not can):
        return {}
    if not can:
        raise ConfigError(
            "generation=vllm needs a CUDA device and the package vllm (docs/grpo.md says which); "
            "choose generation=transformers"
        )
    if config.vllm_server:
        return {
            "use_vllm": True,
            "vllm_mode": "server",
            "vllm_server_base_url": config.vllm_server,
        }
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": config.vllm_memory,
    }


def _check_number(config: GrpoConfig, tasks: Sequence[VerifiableTask]) -> None:
    if len(tasks) < config.prompts_per_step:
        raise DataError(
            f"{', '.join(map(str, config.tasks))}: {len(tasks)} tasks for prompts_per_step "
            f"{config.prompts_per_step}; give more tasks or fewer prompts a step"
        )


def _training_summary(work: Path) -> dict[str, Any]:
    """Return what a reader wants of the run's metrics."""
    lines = read_metrics(work / METRICS.name)
    rewards = [line["reward"] for line in lines if "reward" in line]
    return {
        "steps": len(lines),
        "first_training_reward": rewards[0],
        "last_training_reward": rewards[-1],
    }


def _write_model(checkpoint: Checkpoint, state: dict[str, torch.Tensor], directory: Path) -> None:
    """Write the trained weights under the names and in the formats of the model's own files."""
    writer = CheckpointWriter(directory, checkpoint.config)
    for name, stored in checkpoint.tensors.items():
        dtype: torch.dtype = getattr(torch, stored.format.torch_name)
        # a copy: what is tied in memory is stored once
        writer.add(name, state[name].detach().to("cpu", dtype, copy=True))
    writer.finish()
    copy_tokenizer(checkpoint.directory, directory)
