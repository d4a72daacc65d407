"""Split a user's own documents into the disjoint parts that a run of the chain needs."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from nemo_bielik.data.text import read_documents, text_fingerprint
from nemo_bielik.errors import DataError
from nemo_bielik.stages import describe, is_done, stage_output

#: Share of the documents: a teacher has to be trained, or is there already.
WITH_TEACHER_TRAINING = {
    "train": 0.60,
    "recovery": 0.30,
    "calibration": 0.02,
    "validation": 0.04,
    "test": 0.04,
}
WITH_GIVEN_TEACHER = {"recovery": 0.90, "calibration": 0.02, "validation": 0.04, "test": 0.04}


@dataclass(kw_only=True)
class SplitConfig:
    """Documents go to a part by the hash of their text, so equal ones never meet across parts."""

    inputs: list[Path]
    output: Path
    shares: dict[str, float] = field(default_factory=lambda: dict(WITH_TEACHER_TRAINING))


def split_documents(config: SplitConfig) -> None:
    """Write one ``PART.jsonl`` for each share; raise `DataError` if a part stays empty."""
    inputs = {str(path): text_fingerprint(path) for path in config.inputs}
    manifest = describe("split", config, inputs)
    if is_done(config.output, manifest):
        return
    results: dict[str, int] = {}
    with stage_output(config.output, manifest, results) as scratch:
        results |= _write_parts(config.inputs, config.shares, scratch)
        for part, documents in results.items():
            if not documents:
                raise DataError(
                    f"{config.inputs[0]}: too few documents to split: none fell to {part}; give "
                    "more text, or separate its documents by blank lines"
                )


def _write_parts(
    inputs: Sequence[Path], shares: Mapping[str, float], directory: Path
) -> dict[str, int]:
    counts = dict.fromkeys(shares, 0)
    with ExitStack() as stack:
        streams = {
            part: stack.enter_context((directory / f"{part}.jsonl").open("w", encoding="utf-8"))
            for part in shares
        }
        for path in inputs:
            for text in read_documents(path):
                part = _part_of(text, shares)
                streams[part].write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                counts[part] += 1
    return counts


def _part_of(text: str, shares: Mapping[str, float]) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64 * sum(shares.values())
    for part, share in shares.items():
        position -= share
        if position < 0:
            return part
    return list(shares)[-1]  # rounding left a hair over
