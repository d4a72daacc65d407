"""The roofline beside the measurement: what memory alone lets a student gain.

The teacher's measured time per output token tells what bandwidth its server reaches; at the same
bandwidth the student's smaller weights give its time (`nemo_bielik.planner.roofline`). That holds
for one sequence at a time and weights far larger than any cache. The time to the first token, in
which matrices meet matrices and every layer has a fixed cost, is not explained by it.
"""

from typing import Any

from nemo_bielik.arch import ModelArch
from nemo_bielik.planner.roofline import bytes_per_token, fitted_bandwidth, seconds_per_token

NOT_EXPLAINED = (
    "The time to the first token is not predicted: a roofline of memory says nothing about it."
)


def predict_student(
    teacher: ModelArch, student: ModelArch, precision: str, teacher_tpot_ms: float, context: int
) -> dict[str, Any]:
    """Return the student's predicted time per token, from the teacher's measured one alone."""
    reached = fitted_bandwidth(teacher, precision, teacher_tpot_ms / 1e3, context)
    predicted = seconds_per_token(student, precision, reached, context) * 1e3
    return {
        "precision": precision,
        "context_tokens": context,
        "teacher_bytes_per_token": bytes_per_token(teacher, precision, context),
        "student_bytes_per_token": bytes_per_token(student, precision, context),
        "bandwidth_reached": round(reached),
        "student_tpot_ms": round(predicted, 4),
    }


def beside(predicted: dict[str, Any], measured_tpot_ms: float) -> dict[str, Any]:
    """Return the prediction with what was measured and by how many percent it misses that."""
    miss = 100 * (predicted["student_tpot_ms"] / measured_tpot_ms - 1)
    return predicted | {
        "measured_student_tpot_ms": round(measured_tpot_ms, 4),
        "miss_percent": round(miss, 2),
    }


def at_full_bandwidth(
    arch: ModelArch, precision: str, bandwidth: float, measured_tpot_ms: float, context: int
) -> dict[str, Any]:
    """Return the least time per token that a device's bandwidth allows, and the share reached."""
    least = seconds_per_token(arch, precision, bandwidth, context) * 1e3
    return {
        "least_tpot_ms": round(least, 4),
        "efficiency": round(least / measured_tpot_ms, 4),
    }
