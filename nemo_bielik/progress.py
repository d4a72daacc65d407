"""One kind of progress bar for everything: on a terminal only, one line a lane."""

import os
import sys
from typing import Any

from tqdm import tqdm


def progress(*args: Any, show: bool = True, **kwargs: Any) -> Any:
    """Return a tqdm bar on stderr; nothing is drawn where stderr is no terminal.

    `show` False silences it (ranks other than the one that reports).
    """
    lane = os.environ.get("BIELIK_LANE")
    kwargs |= {"file": sys.__stderr__, "disable": None if show else True}
    if lane:
        kwargs |= {"position": int(lane), "leave": False}
    return tqdm(*args, **kwargs)
