"""Bytes that training takes on each GPU, part by part.

Weights, gradients and optimizer as the engine keeps them (bf16 weights 2 bytes, fp32 gradients 4,
fp32 copy and Adam's two moments 12, the last shared by data and context ranks; a teacher has
weights alone). Activations after Korthikanti et al., "Reducing Activation Recomputation in Large
Transformer Models" (2022), for grouped queries, a gated MLP, no dropout and attention that keeps
no score matrix; a token of one layer keeps, in bf16, with sizes h (hidden), q and k (all query
heads, all key heads) and f (ffn)::

    8 h                        inputs of both norms and of the linear layers after them
    2 q + 4 k + 2 q + 6 f      queries, keys, values, attention's output; gate, up, their product

The second row is split over tensor ranks, the first only under sequence parallelism. Full
recomputation keeps a layer's input, 2 h, and one layer's row at a time. A context rank keeps this
of its own tokens, but for the keys and values of all, which its attention has gathered; the output
of attention twice, as its kernel and as the next product want it; and a mask over its queries and
all keys, a byte a pair and two as attention adds it, shared by all layers.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from nemo_bielik.arch import ModelArch
from nemo_bielik.planner.parameters import INPUT_EMBEDDING, rows
from nemo_bielik.planner.stages import layers_of_stages

if TYPE_CHECKING:
    from nemo_bielik.training import TrainSettings

#: Logits that exist at once, both models', on a GPU (`distill/fused.py`).
CHUNK_BYTES = 512 * 2**20
#: CUDA's context, NCCL's buffers and cuBLAS's workspaces; not measured by us yet.
CONTEXT_BYTES = 6 * 2**30
#: Share that the allocator loses to fragments; not measured by us yet.
FRAGMENTS = 0.05


@dataclass(frozen=True)
class Workload:
    """Sizes of models and batches; `teacher` is None where labels or a cache serve."""

    student: ModelArch
    teacher: ModelArch | None
    sequence_length: int
    global_batch_size: int


@dataclass(frozen=True)
class Layout:
    """How a workload is split; `sequence` and `recompute` are on or off.

    `context` ranks share each sequence.
    """

    tensor: int
    pipeline: int
    data: int
    micro_batch_size: int
    sequence: bool
    recompute: bool
    context: int = 1

    @classmethod
    def of(cls, run: "TrainSettings") -> "Layout":
        """Return the layout that a run is set to."""
        split = run.parallel
        return cls(
            tensor=split.tensor,
            pipeline=split.pipeline,
            data=split.data,
            micro_batch_size=run.micro_batch_size,
            sequence=split.sequence,
            recompute=run.recompute,
            context=split.context,
        )

    def tokens(self, workload: Workload) -> int:
        """Tokens of a micro-batch that one rank has."""
        return self.micro_batch_size * workload.sequence_length // self.context

    def micro_batches(self, workload: Workload) -> int:
        """Micro-batches that a rank works through in one step."""
        return workload.global_batch_size // (self.data * self.micro_batch_size)


def stage_parameters(arch: ModelArch, layout: Layout, stage: int) -> int:
    """Return the parameters that one rank of a pipeline stage holds.

    Matrices are split over tensor ranks, norms are on all of them. With tied embeddings and several
    stages the last one holds a copy of the embedding.
    """
    return _stage_parameters(arch, layout.tensor, layout.pipeline, stage)


@lru_cache(maxsize=1024)
def _stage_parameters(arch: ModelArch, tensor: int, pipeline: int, stage: int) -> int:
    counts = layers_of_stages(arch.num_layers, pipeline)
    first = sum(counts[:stage])
    layers = range(first, first + counts[stage])
    is_first, is_last = stage == 0, stage == pipeline - 1
    total = 0
    for name, layer, size, splits in _tensors(arch):
        here = layer in layers
        if layer is None:
            here = is_first if name == INPUT_EMBEDDING else is_last
            here |= name == INPUT_EMBEDDING and is_last and arch.tie_word_embeddings
        total += here * (size // tensor if splits else size)
    return total


@lru_cache(maxsize=64)
def _tensors(arch: ModelArch) -> tuple[tuple[str, int | None, int, bool], ...]:
    return tuple((row.name, row.layer, row.numel, len(row.shape) == 2) for row in rows(arch))


def layer_activation_bytes(arch: ModelArch, layout: Layout, tokens: int) -> float:
    """Return what one layer keeps for its backward pass where a rank has `tokens` tokens."""
    queries = arch.num_attention_heads * arch.head_dim
    keys = arch.num_query_groups * arch.head_dim
    whole = 8 * arch.hidden_size / (layout.tensor if layout.sequence else 1)
    gathered = 4 * keys * layout.context + (2 * queries if layout.context > 1 else 0)
    split = (4 * queries + gathered + 6 * arch.ffn_hidden_size) / layout.tensor
    return tokens * (whole + split)


def _activations(workload: Workload, layout: Layout, stage: int) -> float:
    arch = workload.student
    tokens = layout.tokens(workload)
    layers = layers_of_stages(arch.num_layers, layout.pipeline)[stage]
    in_flight = min(layout.pipeline - stage, layout.micro_batches(workload))
    row = layer_activation_bytes(arch, layout, tokens)
    mask = 3 * tokens * workload.sequence_length if layout.context > 1 else 0
    if not layout.recompute:
        return in_flight * (layers * row + mask)
    kept = 2 * tokens * arch.hidden_size / (layout.tensor if layout.sequence else 1)
    return in_flight * (layers * kept + mask) + row


def _loss(workload: Workload, layout: Layout) -> float:
    """Hidden states of both models, what the output weight's gradient is summed in, the chunk."""
    tokens = layout.tokens(workload)
    student = workload.student
    # fp32 as Megatron returns them, bf16 as the products take them, their gradient
    hidden = tokens * 8 * student.hidden_size
    if workload.teacher is not None:
        hidden += tokens * 6 * workload.teacher.hidden_size
    slopes = 6 * student.vocab_size * student.hidden_size / layout.tensor
    return hidden + slopes + 2 * CHUNK_BYTES


def stage_memory(workload: Workload, layout: Layout, stage: int) -> dict[str, float]:
    """Return the bytes on one GPU of a pipeline stage, by what takes them."""
    held = stage_parameters(workload.student, layout, stage)
    parts: dict[str, float] = {
        "weights": 2 * held,
        "gradients": 4 * held,
        "optimizer": 12 * held / (layout.data * layout.context),
        "teacher": 0.0,
        "activations": _activations(workload, layout, stage),
        "loss": _loss(workload, layout) if stage == layout.pipeline - 1 else 0.0,
        "context": CONTEXT_BYTES,
    }
    if workload.teacher is not None:
        tokens = layout.tokens(workload)
        parts["teacher"] = 2 * stage_parameters(workload.teacher, layout, stage)
        # nothing is kept, but the largest layer exists for a moment
        parts["teacher"] += layer_activation_bytes(workload.teacher, layout, tokens)
    parts["fragments"] = FRAGMENTS * sum(parts.values())
    return parts


def peak_memory(workload: Workload, layout: Layout) -> dict[str, float]:
    """Return the parts of the fullest GPU."""
    stages = [stage_memory(workload, layout, stage) for stage in range(layout.pipeline)]
    return max(stages, key=lambda parts: sum(parts.values()))
