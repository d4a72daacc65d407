"""Seconds that a training step takes: products, talk between GPUs, the pipeline's bubble.

An estimate to compare layouts by, not a promise: GPUs reach `efficiency` of their peak in matrix
products and `LINK_SHARE` of their links, nothing overlaps, and both shares are assumptions that no
run of ours has measured yet. Products: forward and backward of the student are three forward
passes, four where activations are recomputed; the teacher adds one of its own.
"""

from nemo_bielik.arch import ModelArch
from nemo_bielik.planner.devices import NODE_LINK_BYTES, Cluster
from nemo_bielik.planner.flops import attention_flops_per_token, linear_flops_per_token
from nemo_bielik.planner.stages import layers_of_stages
from nemo_bielik.planner.training_memory import Layout, Workload, stage_parameters

#: Share of the peak that dense bf16 products reach in training; 0.4 to 0.5 is usual on Hopper.
EFFICIENCY = 0.45
LINK_SHARE = 0.7


def step_seconds(
    workload: Workload, layout: Layout, cluster: Cluster, efficiency: float = EFFICIENCY
) -> float:
    """Return the seconds of one optimizer step."""
    times = [
        _products(workload, layout, stage) / (cluster.device.bf16_flops * efficiency)
        + _tensor_talk(workload, layout, stage, cluster)
        + _context_talk(workload, layout, stage, cluster)
        for stage in range(layout.pipeline)
    ]
    rounds = layout.micro_batches(workload) + layout.pipeline - 1
    return rounds * max(times) + _data_talk(workload, layout, cluster)


def bubble(workload: Workload, layout: Layout) -> float:
    """Return the share of the pipeline's time in which a stage waits: (p − 1) / (m + p − 1)."""
    waiting = layout.pipeline - 1
    return waiting / (layout.micro_batches(workload) + waiting)


def _products(workload: Workload, layout: Layout, stage: int) -> float:
    """FLOPs of one micro-batch on one GPU of a stage."""
    passes = 4 if layout.recompute else 3
    total = passes * _forward(workload.student, workload, layout, stage)
    if workload.teacher is not None:
        total += _forward(workload.teacher, workload, layout, stage)
    return total


def _forward(arch: ModelArch, workload: Workload, layout: Layout, stage: int) -> float:
    tokens = layout.tokens(workload)
    logits = 2 * arch.vocab_size * arch.hidden_size
    attention = attention_flops_per_token(arch, workload.sequence_length)
    if layout.context > 1:  # a piece takes the products up to its end, those hidden in it as well
        attention *= 1 + 1 / (2 * layout.context)
    layers = linear_flops_per_token(arch) - logits + attention
    share = layers_of_stages(arch.num_layers, layout.pipeline)[stage] / arch.num_layers
    here = layers * share + (logits if stage == layout.pipeline - 1 else 0)
    return tokens * here / layout.tensor


def _tensor_talk(workload: Workload, layout: Layout, stage: int, cluster: Cluster) -> float:
    """Two all-reduces of [s, b, h] a layer in every forward and in every backward pass."""
    if layout.tensor == 1:
        return 0.0
    tokens = layout.tokens(workload)
    bandwidth = cluster.device.link_bandwidth * LINK_SHARE
    # a ring sends every byte twice, but for a rank's own share
    a_byte = 2 * (layout.tensor - 1) / layout.tensor / bandwidth
    passes = [(workload.student, 3 if layout.recompute else 2), (workload.teacher, 1)]
    seconds = 0.0
    for arch, count in passes:
        if arch is not None:
            layers = layers_of_stages(arch.num_layers, layout.pipeline)[stage]
            seconds += count * 2 * layers * 2 * tokens * arch.hidden_size * a_byte
    return seconds


def _context_talk(workload: Workload, layout: Layout, stage: int, cluster: Cluster) -> float:
    """All-gather of keys and values in every forward pass, reduce-scatter in every backward one."""
    others = layout.context - 1  # each rank receives, or sends back, the parts of the others
    bandwidth = cluster.device.link_bandwidth * LINK_SHARE
    passes = [(workload.student, 3 if layout.recompute else 2), (workload.teacher, 1)]
    seconds = 0.0
    for arch, count in passes:
        if arch is not None:
            layers = layers_of_stages(arch.num_layers, layout.pipeline)[stage]
            part = 4 * layout.tokens(workload) * arch.num_query_groups * arch.head_dim
            seconds += count * layers * others * part / layout.tensor / bandwidth
    return seconds


def _data_talk(workload: Workload, layout: Layout, cluster: Cluster) -> float:
    """Reduce-scatter of fp32 gradients and all-gather of bf16 weights, once a step."""
    ranks = layout.data * layout.context
    if ranks == 1:
        return 0.0
    within = layout.tensor * layout.pipeline * ranks <= cluster.gpus_per_node
    link = cluster.device.link_bandwidth if within else NODE_LINK_BYTES
    held = max(
        stage_parameters(workload.student, layout, stage) for stage in range(layout.pipeline)
    )
    return (4 + 2) * held * (ranks - 1) / ranks / (link * LINK_SHARE)
