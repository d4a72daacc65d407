"""``generation_config.json``: the tokens at which a model's answers end."""

import json
from pathlib import Path
from typing import Any

from nemo_bielik.errors import CheckpointError

GENERATION_CONFIG = "generation_config.json"


def read_generation_config(directory: Path) -> dict[str, Any]:
    """Return a model directory's settings of generation, {} where it has none.

    Raises `CheckpointError` if the file holds something else.
    """
    path = directory / GENERATION_CONFIG
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: is not valid JSON ({error}); copy it again") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: must hold one JSON object")
    return found


def end_ids(directory: Path, end_of_text: int | None) -> list[int]:
    """Return the ids that end an answer: of the text, and of a turn if the directory names it.

    vLLM and transformers stop at any of ``eos_token_id`` too.
    """
    named = read_generation_config(directory).get("eos_token_id")
    given = [end_of_text, *(named if isinstance(named, list) else [named])]
    return sorted({token for token in given if isinstance(token, int)})
