"""``bielik bench --paper``: the report's Table 16 beside what a roofline of memory predicts.

The teacher's time per output token alone tells the bandwidth that the report's server reached; with
it the student's time follows from its size. What the table holds beside that is named.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B
from nemo_bielik.bench.prediction import beside, predict_student
from nemo_bielik.paper.tables import paper_tables
from nemo_bielik.planner.cards import CARDS
from nemo_bielik.planner.table import align

CARD = "RTX-PRO-6000-MAX-Q"


@dataclass(kw_only=True)
class PaperSpeedConfig:
    """The report's measured speed, and what follows from its teacher's figure alone."""

    paper: bool = field(default=False, metadata={"help": "show the report's own figures"})
    json: bool = field(default=False, metadata={"help": "print one JSON object instead"})


def rebuild_speed() -> dict[str, Any]:
    """Return Table 16, the student's time predicted from the teacher's, and what is not explained.

    The report gives neither prompt nor output lengths, so no keys and values are counted.
    """
    speed = paper_tables()["speed"]
    teacher, student = speed["teacher"], speed["student"]
    predicted = predict_student(
        BIELIK_11B_V3, BIELIK_MINITRON_7B, "bf16", teacher["tpot_ms"], context=0
    )
    rise = student["ttft_ms"] - teacher["ttft_ms"]
    return {
        "table": speed["table"],
        "device": speed["device"],
        "teacher": teacher,
        "student": student,
        "ratios": {name: round(student[name] / teacher[name], 4) for name in teacher},
        "roofline": beside(predicted, student["tpot_ms"])
        | {"efficiency": round(predicted["bandwidth_reached"] / CARDS[CARD].bandwidth, 4)},
        "not_explained": (
            f"The time to the first token rose by {rise:.2f} ms in the student "
            f"({teacher['ttft_ms']} to {student['ttft_ms']} ms). A roofline does not explain that: "
            "with fewer weights to read and fewer sums to form it could only fall."
        ),
    }


def print_paper_speed(config: PaperSpeedConfig) -> None:
    """Print the table and the prediction."""
    found = rebuild_speed()
    if config.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    names = {"tokens_per_second": "tokens/s", "ttft_ms": "TTFT ms", "tpot_ms": "TPOT ms"}
    rows = [[role, *(str(found[role][name]) for name in names)] for role in ("teacher", "student")]
    rows.append(["student ÷ teacher", *(f"{found['ratios'][name]:.3f}" for name in names)])
    print(f"The report's Table {found['table']}, {found['device']}, bf16, one request at a time")
    print(align(["", *names.values()], rows))
    fitted = found["roofline"]
    print(
        f"\nRoofline: the teacher's {found['teacher']['tpot_ms']} ms a token mean "
        f"{fitted['bandwidth_reached'] / 1e9:.0f} GB/s, {100 * fitted['efficiency']:.1f} % of the "
        f"card's; at that the student takes\n{fitted['student_tpot_ms']:.2f} ms, where "
        f"{fitted['measured_student_tpot_ms']} ms were measured "
        f"({fitted['miss_percent']:+.1f} %).\n"
        f"{found['not_explained']}"
    )
