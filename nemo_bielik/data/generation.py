"""``generation_config.json``: the tokens at which a model's answers end."""

from pathlib import Path

from nemo_bielik.checkpoint import read_json

GENERATION_CONFIG = "generation_config.json"


def end_ids(directory: Path, end_of_text: int | None) -> list[int]:
    """Return the ids that end an answer: of the text, and of a turn if the directory names it.

    vLLM and transformers stop at any of ``eos_token_id`` too.
    """
    named = read_json(directory / GENERATION_CONFIG).get("eos_token_id")
    given = [end_of_text, *(named if isinstance(named, list) else [named])]
    return sorted({token for token in given if isinstance(token, int)})
