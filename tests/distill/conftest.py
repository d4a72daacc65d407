"""Helpers of the tests of losses can be imported, here and by the processes that tests spawn."""

import sys
from pathlib import Path

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)
