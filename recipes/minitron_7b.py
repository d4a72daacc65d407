"""Bielik-Minitron-7B, the report's EXP_010: cut to 40 layers and ffn 11,264, then distilled.

The report gives 8,000 steps, 48 to 72 hours on 2 × 8 H200, AdamW and a cosine, but neither batch
nor rates. 768 sequences of 4,096 tokens fill 73 hours by `bielik plan --cluster 2x8xH200`; the
rates are ours. There both models fit on every GPU, and no layout is faster than 16 replicas, as
the report found; the split ones are for smaller GPUs and longer sequences.
"""

from dataclasses import replace

from nemo_bielik.align.assistant import AssistantSettings
from nemo_bielik.align.grpo import GrpoConfig, GrpoSettings
from nemo_bielik.distill.cache_stage import CacheTeacherConfig, cache_for
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.pipeline import PipelineConfig
from nemo_bielik.pruning.prune import PruneConfig
from nemo_bielik.quantize.config import QuantizeConfig
from nemo_bielik.recipes import alignment, bielik_11b_v3
from nemo_bielik.recipes.bielik_11b_v3 import MODEL, RUN, SEQUENCE_LENGTH
from nemo_bielik.runs import ALIGNED, DISTILLED, PRUNED, REWARDED
from nemo_bielik.shape import Shape
from nemo_bielik.training import OptimConfig, StabilityConfig, TrainSettings


def recovery() -> TrainSettings:
    """25 billion tokens on 16 GPUs; a step that would do harm rolls back to the last checkpoint."""
    return TrainSettings(
        iters=8000,
        sequence_length=SEQUENCE_LENGTH,
        global_batch_size=768,
        micro_batch_size=1,
        eval_interval=200,
        eval_iters=2,
        save_interval=100,
        precision="bf16",
        optim=OptimConfig(max_lr=1e-4, min_lr=1e-5, warmup_iters=100),
        stability=StabilityConfig(policy="rollback", loss_spike=10.0),
        parallel=ParallelConfig(data=16),
    )


def prune() -> PruneConfig:
    """50 → 40 layers, ffn 14,336 → 11,264, by Minitron's scores."""
    return PruneConfig(
        model=MODEL, scores=RUN.scores, output=RUN.model(PRUNED), target="bielik-minitron-7b"
    )


def distill() -> DistillConfig:
    """Forward KL to the original, 16 replicas of both models."""
    return DistillConfig(
        model=RUN.model(PRUNED),
        teacher=MODEL,
        train_data=[RUN.tokens("recovery")],
        validation_data=RUN.tokens("validation"),
        output=RUN.model(DISTILLED),
        **recovery().fields(),
    )


def distill_1x8() -> DistillConfig:
    """The same on one node, in twice the time."""
    return replace(distill(), parallel=ParallelConfig(data=8))


def distill_tp2() -> DistillConfig:
    """Every model on two GPUs, sequences split between them: half the memory of `distill`."""
    return replace(distill(), parallel=ParallelConfig(tensor=2, data=8, sequence=True))


def distill_tp2_pp4() -> DistillConfig:
    """Every model on eight GPUs; the teacher's 50 layers fill the stages as 12, 13, 13, 12."""
    parallel = ParallelConfig(tensor=2, pipeline=4, data=2, sequence=True)
    return replace(distill(), parallel=parallel)


def distill_tp2_pp4_1x8() -> DistillConfig:
    """As `distill_tp2_pp4`, one replica on one node: for GPUs of 80 GB."""
    parallel = ParallelConfig(tensor=2, pipeline=4, data=1, sequence=True)
    return replace(distill(), parallel=parallel)


def distill_32k() -> DistillConfig:
    """Sequences of 32,768 tokens, as many tokens a step; four GPUs share each by tensor."""
    return replace(
        distill(),
        sequence_length=32_768,
        global_batch_size=96,
        parallel=ParallelConfig(tensor=4, data=4, sequence=True),
    )


def distill_32k_cp8() -> DistillConfig:
    """The same, eight GPUs to a sequence by context: every model whole, the planner's choice."""
    return replace(distill_32k(), parallel=ParallelConfig(context=8, data=2))


def distill_32k_tp2_cp4() -> DistillConfig:
    """The same, four context ranks of two GPUs each to a sequence: two thirds of the memory."""
    parallel = ParallelConfig(tensor=2, context=4, data=2, sequence=True)
    return replace(distill_32k(), parallel=parallel)


def distill_32k_tp2_cp4_1x8() -> DistillConfig:
    """The same on one node."""
    parallel = ParallelConfig(tensor=2, context=4, data=1, sequence=True)
    return replace(distill_32k(), parallel=parallel)


def evaluate() -> EvaluateConfig:
    """Judge the distilled model on what the original is judged by."""
    model, output = RUN.model(DISTILLED), RUN.evaluation(DISTILLED)
    return replace(bielik_11b_v3.evaluate(), model=model, output=output)


def quantize() -> QuantizeConfig:
    """The report's row of formats of the aligned model; ModelOpt's usual 512 windows calibrate."""
    return QuantizeConfig(
        model=RUN.model(REWARDED),
        output=RUN.root / "quantized",
        all=True,
        texts=[RUN.text("calibration")],
        calibration_tokens=262_144,
        held_out=[RUN.text("test")],
    )


def cache_teacher() -> CacheTeacherConfig:
    """The original's likeliest tokens for `distill`: 25 billion of them are terabytes (dry run)."""
    return cache_for(distill(), RUN.root / "teacher-cache")


def rewards() -> GrpoSettings:
    """Once over the report's 143,000 tasks, 64 of them a step, after SFT and DPO-P.

    It gives neither sizes nor rates: these are ours, and no GPU of ours has run them.
    """
    return GrpoSettings(
        iters=2_234,
        prompts_per_step=64,
        group_size=8,
        micro_batch_size=2,
        max_answer_tokens=4_096,
        save_interval=50,
        generation="vllm",
        precision="bf16",
        recompute=True,
        shard=True,
        parallel=ParallelConfig(data=16),
    )


def assistant() -> AssistantSettings:
    """Conversations, pairs and tasks as JSON lines beside the run's text."""
    data = RUN.root / "align"
    return AssistantSettings(
        conversations=[data / "conversations.jsonl"],
        preferences=[data / "pairs.jsonl"],
        tasks=[data / "tasks.jsonl"],
        held_out_tasks=[data / "held_out_tasks.jsonl"],
        tokenizer=RUN.root / "chat-tokenizer",
        malformed="skip",
        sft=alignment.fine_tuning(),
        dpo=alignment.preferences(),
        grpo=rewards(),
    )


def grpo() -> GrpoConfig:
    """Learn from rewards, after preferences."""
    data = assistant()
    return GrpoConfig(
        model=RUN.model(ALIGNED),
        tasks=data.tasks,
        held_out=data.held_out_tasks,
        output=RUN.model(REWARDED),
        malformed=data.malformed,
        **vars(rewards()),
    )


def pipeline() -> PipelineConfig:
    """The whole chain as jobs: scoring on one node, distillation on two, evaluation on one GPU."""
    return PipelineConfig(
        **vars(bielik_11b_v3.prepare()),
        target=Shape(num_layers=40, ffn_hidden_size=11_264),
        recovery=recovery(),
        score_samples=bielik_11b_v3.score().samples,
        score_parallel=bielik_11b_v3.score_1x8().parallel,
        lanes=8,
    )


def pipeline_assistant() -> PipelineConfig:
    """The chain and what makes an assistant of its model, each stage on two nodes."""
    return replace(pipeline(), assistant=assistant())


def pipeline_1x8() -> PipelineConfig:
    """The chain on one node, as jobs or, without ``--executor``, in lanes of it."""
    return replace(pipeline(), recovery=replace(recovery(), parallel=ParallelConfig(data=8)))
