"""Forward KL of logits in two kernels, for GPUs: one reads, one turns logits into their gradient.

Written for Triton 3. Its arithmetic is tested under Triton's interpreter on a CPU; it has not run
on a GPU yet (tests/gpu/test_fused_gpu.py is ready). `losses.sum_and_gradient` takes it on CUDA for
the loss that the report uses, forward KL to a teacher's logits without labels, at any temperature.

Each program works on one token's slice of the vocabulary, a block at a time. The first kernel keeps
a running maximum and sum (Milakov and Gimelshein, Online normalizer calculation for softmax, 2018);
a group's ranks then agree on the normaliser, [tokens] numbers, before the second runs.
"""
# ruff: noqa: ANN001, ANN202  (kernels take what Triton makes of their arguments)

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from nemo_bielik.distill.vocabulary import Group, all_maximum, all_sum

_BLOCK = 4096
_LOWEST = tl.constexpr(-3.4028234663852886e38)


def forward_kl_in_place(
    student: Tensor, teacher: Tensor, temperature: float = 1.0, group: Group = None
) -> Tensor:
    """Return Σ_tokens T² · KL(softmax(z_t/T) ‖ softmax(z_s/T)), float64, over the whole group.

    Args:
        student: logits [tokens, vocab / ranks]; their gradient T · (q − p) takes their place.
        teacher: logits like `student`'s, of any float type; computed in float32.
        temperature: T above 0.
        group: ranks that each hold a slice of the vocabulary.
    """
    divergences = torch.zeros(len(student), dtype=torch.float32, device=student.device)
    if len(student):
        student_normaliser = _log_normaliser(student, temperature, group)
        teacher_normaliser = _log_normaliser(teacher, temperature, group)
        _gradient_kernel[(len(student),)](
            student,
            teacher,
            student_normaliser,
            teacher_normaliser,
            divergences,
            student.stride(0),
            teacher.stride(0),
            student.size(-1),
            float(temperature),
            block=_BLOCK,
        )
    return all_sum(divergences.sum(dtype=torch.float64).mul_(temperature**2), group)


def _log_normaliser(logits: Tensor, temperature: float, group: Group) -> Tensor:
    """Return log Σ exp(z / T) [tokens] over the whole vocabulary."""
    maxima, sums = torch.empty(2, len(logits), dtype=torch.float32, device=logits.device)
    _statistics_kernel[(len(logits),)](
        logits, maxima, sums, logits.stride(0), logits.size(-1), float(temperature), block=_BLOCK
    )
    highest = all_maximum(maxima.clone(), group)
    return highest + all_sum(sums * (maxima - highest).exp(), group).log()


@triton.jit  # type: ignore[untyped-decorator]
def _statistics_kernel(logits, maxima, sums, stride, vocabulary, temperature, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write a token's largest logit and Σ exp(z / T − largest)."""
    token = tl.program_id(0).to(tl.int64)
    highest, total = _LOWEST, 0.0
    for start in range(0, vocabulary, block):
        columns = start + tl.arange(0, block)
        inside = columns < vocabulary
        z = tl.load(logits + token * stride + columns, mask=inside, other=-float("inf"))
        z = z.to(tl.float32) / temperature
        new_highest = tl.maximum(highest, tl.max(z, 0))
        total = total * tl.exp(highest - new_highest) + tl.sum(tl.exp(z - new_highest), 0)
        highest = new_highest
    tl.store(maxima + token, highest)
    tl.store(sums + token, total)


@triton.jit  # type: ignore[untyped-decorator]
def _gradient_kernel(  # type: ignore[no-untyped-def]
    student,
    teacher,
    student_normaliser,
    teacher_normaliser,
    divergences,
    student_stride,
    teacher_stride,
    vocabulary,
    temperature,
    block: tl.constexpr,
):
    """Write a token's Σ p · (log p − log q) over this slice and T · (q − p) over its logits."""
    token = tl.program_id(0).to(tl.int64)
    student_log_sum = tl.load(student_normaliser + token)
    teacher_log_sum = tl.load(teacher_normaliser + token)
    summands = tl.zeros([block], dtype=tl.float32)
    for start in range(0, vocabulary, block):
        columns = start + tl.arange(0, block)
        inside = columns < vocabulary
        place = student + token * student_stride + columns
        z_s = tl.load(place, mask=inside, other=-float("inf")).to(tl.float32)
        z_t = tl.load(teacher + token * teacher_stride + columns, mask=inside, other=-float("inf"))
        log_q = z_s / temperature - student_log_sum
        log_p = z_t.to(tl.float32) / temperature - teacher_log_sum
        p = tl.exp(log_p)
        # 0 · ∞ of a −inf logit is 0; a NaN is not equal to 0 and stays one
        summands += tl.where(p == 0.0, 0.0, p * (log_p - log_q))
        gradient = temperature * (tl.exp(log_q) - p)
        tl.store(place, gradient.to(student.dtype.element_ty), mask=inside)
    tl.store(divergences + token, tl.sum(summands, 0))
