"""The shared fixtures of the engine's tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "data"))  # chat_cases

from engine_room import (  # noqa: F401
    assistant,
    call,
    held_out,
    lanes,
    student,
    teacher,
    tokens,
    uneven_student,
)
