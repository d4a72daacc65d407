"""A stage that holds memory for a while; in a module of its own, so that lanes can import it."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nemo_bielik.stages import describe, is_done, stage_output

SECONDS = 0.1


@dataclass(kw_only=True)
class HoldConfig:
    """Settings of the stage."""

    output: Path
    num_bytes: int = 96_000_000
    words: str = "done"


def hold(config: HoldConfig) -> None:
    """Write a word after holding memory."""
    manifest = describe("hold", config, {})
    if is_done(config.output, manifest):
        return
    with stage_output(config.output, manifest, {}) as scratch:
        held = np.ones(config.num_bytes, np.uint8)
        time.sleep(SECONDS)
        (scratch / "word").write_text(config.words * int(held[-1]))
    print("this is not for the terminal")
