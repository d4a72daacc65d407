"""The fixtures of the engine's tests, for what needs CUDA."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "megatron")]  # handed on to the lanes

from engine_room import call, lanes, tokens  # noqa: E402, F401
