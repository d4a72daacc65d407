"""From the distilled Bielik-Minitron-7B to an assistant: fine-tuning, then DPO-Positive.

The report gives 3 epochs of 20 million conversations and 3 of 114,000 pairs, both at 32,768 tokens,
on the two nodes of 8 H200 that it distilled on; batches and rates are ours. Two tensor-parallel
ranks share each sequence: of the layouts that `bielik plan --cluster 2x8xH200 --no-distill
--sequence-length 32768 --global-batch-size 64` accepts, the fastest. On one node a context-parallel
one is: `sft_cp4_1x8`.
"""

from dataclasses import replace

from nemo_bielik.align.dpo import DpoConfig, DpoSettings
from nemo_bielik.align.reference import ReferenceConfig
from nemo_bielik.align.sft import SftConfig, SftSettings
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.recipes import tiny, tiny_stages
from nemo_bielik.recipes.bielik_11b_v3 import RUN
from nemo_bielik.runs import ALIGNED, DISTILLED, FINE_TUNED, INSTRUCTIONS, PREFERENCES
from nemo_bielik.training import OptimConfig, StabilityConfig


def layout() -> ParallelConfig:
    """Return the layout of both stages on two nodes."""
    return ParallelConfig(tensor=2, data=8, sequence=True)


def fine_tuning() -> SftSettings:
    """2.1 million tokens a step, packed; a step that would do harm rolls back."""
    return SftSettings(
        unfit="skip",
        global_batch_size=64,
        save_interval=200,
        precision="bf16",
        optim=OptimConfig(max_lr=2e-5, min_lr=2e-6, warmup_iters=100, weight_decay=0.0),
        stability=StabilityConfig(policy="rollback", loss_spike=10.0),
        parallel=layout(),
    )


def preferences() -> DpoSettings:
    """Sixteen sequences of whole pairs a step; the reference comes first, on the same ranks."""
    return DpoSettings(
        unfit="skip",
        global_batch_size=16,
        save_interval=100,
        precision="bf16",
        optim=OptimConfig(max_lr=5e-7, min_lr=5e-8, warmup_iters=50, weight_decay=0.0),
        stability=StabilityConfig(policy="rollback"),
        parallel=layout(),
    )


def sft() -> SftConfig:
    """Fine-tune the distilled model; it gets the chat template of the run's chat-tokenizer."""
    return SftConfig(
        model=RUN.model(DISTILLED),
        tokenizer=RUN.root / "chat-tokenizer",
        train_data=[RUN.tokens(INSTRUCTIONS)],
        output=RUN.model(FINE_TUNED),
        **vars(fine_tuning()),
    )


def dpo() -> DpoConfig:
    """Teach the fine-tuned model preferences."""
    return DpoConfig(
        model=RUN.model(FINE_TUNED),
        train_data=[RUN.tokens(PREFERENCES)],
        output=RUN.model(ALIGNED),
        **vars(preferences()),
    )


def reference() -> ReferenceConfig:
    """What `dpo` computes first, as a job of its own."""
    return dpo().reference_settings()


def sft_1x8() -> SftConfig:
    """The same on one node, where four GPUs share each sequence."""
    return replace(sft(), parallel=ParallelConfig(tensor=4, data=2, sequence=True))


def sft_cp4() -> SftConfig:
    """Every model whole, four GPUs to a sequence by context."""
    return replace(sft(), parallel=ParallelConfig(context=4, data=4))


def sft_cp4_1x8() -> SftConfig:
    """The same on one node."""
    return replace(sft(), parallel=ParallelConfig(context=4, data=2))


def dpo_1x8() -> DpoConfig:
    """The same on one node, where four GPUs share each sequence."""
    return replace(dpo(), parallel=ParallelConfig(tensor=4, data=2, sequence=True))


def tiny_sft() -> SftConfig:
    """The tiny distilled model on a laptop."""
    run = tiny_stages.RUN
    return SftConfig(
        model=run.model(DISTILLED),
        tokenizer=run.root / "chat-tokenizer",
        train_data=[run.tokens(INSTRUCTIONS)],
        output=run.model(FINE_TUNED),
        **vars(tiny.fine_tuning()),
    )


def tiny_dpo() -> DpoConfig:
    """Its preferences."""
    run = tiny_stages.RUN
    return DpoConfig(
        model=run.model(FINE_TUNED),
        train_data=[run.tokens(PREFERENCES)],
        output=run.model(ALIGNED),
        **vars(tiny.preferences()),
    )


def tiny_reference() -> ReferenceConfig:
    """What `tiny_dpo` computes first."""
    return tiny_dpo().reference_settings()
