"""What the report prints that its own figures do not give."""

from typing import Any

from nemo_bielik.arch import BIELIK_11B_V3
from nemo_bielik.evaluate.recovery import recovery_percent
from nemo_bielik.paper.tables import table
from nemo_bielik.planner.parameters import count_parameters

#: Scores of two digits leave a ratio this much open, in points.
_OPEN = 0.03


def contradictions() -> list[str]:
    """Return them one line each; every figure is computed from the tables."""
    return [
        *_euroeval(),
        _sizes(),
        _language_understanding(),
        _polish_of_include(),
        _multiple_functions(),
        "Section 4 calls EXP_009 unstable, with gradient spikes; section 5.2 calls training stable "
        "across all variants",
    ]


def _euroeval() -> list[str]:
    found = []
    ratios = []
    for category, metric, teacher, student, _, printed in table(12)["rows"]:
        ratios.append(recovery_percent(student, teacher))
        if abs(ratios[-1] - printed) > _OPEN:
            what = f"{category}, {metric}"
            found.append(f"Table 12, {what}: {ratios[-1]:.2f} % where {printed:.2f} % is printed")
    below = sum(ratio < 90 for ratio in ratios)
    found.append(
        f"Table 12: {below} of {len(ratios)} rows lie below 90 %, but the text says that over "
        "90 % is retained across nearly every metric"
    )
    found.append(
        "Section 6.8 gives the student 89.75 % accuracy in common-sense reasoning; in Table 12 "
        f"that is the recovery, and its accuracy is {_common_sense_accuracy():.2f}"
    )
    return found


def _common_sense_accuracy() -> float:
    (found,) = (
        student
        for category, metric, _, student, *_ in table(12)["rows"]
        if (category, metric) == ("Common-sense reasoning", "Accuracy")
    )
    return float(found)


def _sizes() -> str:
    sizes = _column(5, "params_billion")
    teacher, student = sizes["Bielik-11B-v3.0-Instruct"], sizes["Bielik-Minitron-7B-v3.0-Instruct"]
    both = count_parameters(BIELIK_11B_V3) / 1e9
    return (
        f"Tables 5 to 8 give the teacher {teacher:g} B parameters, which counts both embeddings "
        f"({both:.2f} B), and the student {student:g} B, which counts one; that would be "
        f"{100 * (1 - student / teacher):.1f} % fewer, where the text has 33.4 %"
    )


def _language_understanding() -> str:
    own, overall = _column(7, "language_understanding"), _column(7, "overall")
    return (
        "Section 6.3 sets the student's language understanding, "
        f"{own['Bielik-Minitron-7B-v3.0-Instruct']:.2f}, against phi-4's and Qwen2.5-7B's overall "
        f"averages, {overall['phi-4']:.2f} and {overall['Qwen2.5-7B-Instruct']:.2f}; Table 7 gives "
        f"them {own['phi-4']:.2f} and {own['Qwen2.5-7B-Instruct']:.2f} there"
    )


def _polish_of_include() -> str:
    polish = _column(9, "polish")
    own = polish["Bielik-Minitron-7B-v3.0-Instruct"]
    ahead = [name for name, score in polish.items() if score > own]
    return (
        f"Section 6.5 gives the student the leading position in Polish ({own:.1f}); in Table 9 "
        f"{len(ahead)} models score higher, one that is not a Bielik among them "
        f"({next(name for name in ahead if not name.startswith('Bielik'))})"
    )


def _multiple_functions() -> str:
    scores = _column(15, "non_live_multiple")
    own, other = scores["Bielik-Minitron-7B"], scores["Gemma-3-12b-it (Prompt)"]
    return (
        f"Section 6.11 says that {own:.2f} % in Non-Live Multiple AST matches or exceeds "
        f"Gemma-3-12b-it; Table 15 gives that {other:.2f} %"
    )


def _column(number: int, name: str) -> dict[str, Any]:
    found = table(number)
    place = found["columns"].index(name)
    return {row[0]: row[place] for row in found["rows"]}
