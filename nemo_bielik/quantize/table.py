"""The table of formats: size, bits, what each costs, and the cards it fits."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from nemo_bielik.arch import ModelArch
from nemo_bielik.planner.cards import CARDS, CardsConfig, context_beside, small_cards
from nemo_bielik.planner.table import align

#: Titles and figures that are there if they were measured.
_MEASURED = (
    ("perplexity", "perplexity", "{:.3f}"),
    ("loss %", "loss_percent", "{:+.2f}"),
    ("KL", "kl", "{:.5f}"),
    ("top-1", "top1_agreement", "{:.1%}"),
    ("pairs", "minimal_pairs_accuracy", "{:.1%}"),
    ("facts", "fact_accuracy", "{:.1%}"),
    ("tokens/s", "tokens_per_second", "{:.1f}"),
    ("memory MB", "memory_bytes", "{:,.1f}"),
)
_MEGABYTE = 1e6


def with_cards(
    row: dict[str, Any], arch: ModelArch, context: int, cache_precision: str = "bf16"
) -> dict[str, Any]:
    """Return `row` with the longest context that fits beside its bytes, card by card.

    `context` is no longer than the model's positions.
    """
    config = CardsConfig(context=context, cache_precision=cache_precision)
    longest = {
        card.name: context_beside(arch, row["bytes"], card, config) for card in small_cards()
    }
    fits = [name for name, tokens in longest.items() if tokens >= context]
    return {**row, "longest_context": longest, "fits": fits}


def format_table(results: dict[str, Any]) -> str:
    """Return the table as text; figures that were not measured have no column."""
    rows = results["formats"]
    measured = [column for column in _MEASURED if any(column[1] in row for row in rows)]
    head = [
        "format",
        "MB",
        "bits/weight",
        "in named type",
        f"cards at {results['context']:,} tokens",
    ]
    body = []
    for engine, own in results["unquantised"].items():
        cells = ["unquantised", "", "", "", "", *(_cell(own, column) for column in measured)]
        body.append([*cells, engine])
    for row in rows:
        cards = f"{len(row['fits'])} of {len(row['longest_context'])}"
        share = f"{row['named_share']:.1%} {row['named_type']}"
        size, bits = f"{row['bytes'] / _MEGABYTE:,.1f}", f"{row['bits_per_weight']:.2f}"
        cells = [row["format"], size, bits, share, cards]
        body.append([*cells, *(_cell(row, column) for column in measured), row["engine"]])
    table = align([*head, *(title for title, _, _ in measured), "run by"], body)
    smallest = _smallest_cards(rows, results["context"])
    return "\n".join([table, smallest, *(note for row in rows for note in notes(row))])


def _smallest_cards(rows: list[dict[str, Any]], context: int) -> str:
    """Return a line with the smallest card that each format fits."""
    formats: dict[str, list[str]] = {}
    for row in rows:
        cards = [CARDS[name] for name in row["fits"]]
        smallest = min(cards, key=lambda card: card.memory_bytes, default=None)
        named = (
            f"{smallest.name} ({smallest.memory_gib:g} GB)" if smallest else "none of 16 to 24 GB"
        )
        formats.setdefault(named, []).append(row["format"])
    found = "; ".join(f"{named} for {', '.join(own)}" for named, own in formats.items())
    return f"smallest card that holds {context:,} tokens beside the weights: {found}"


def notes(row: dict[str, Any]) -> list[str]:
    """Return what is to be said of a format: matrices that its blocks do not divide."""
    if not row["indivisible"]:
        return []
    return [
        f"{row['format']}: rows of {len(row['indivisible'])} matrices do not divide into "
        f"{row['named_type']} blocks; used instead: {grouped(row['indivisible'])}"
    ]


def grouped(matrices: Mapping[str, str]) -> str:
    """Return matrices and their types, one entry for all layers: ``blk.*.attn_q (6): Q5_0``."""
    counts = Counter(
        (re.sub(r"\.\d+\.", ".*.", name.removesuffix(".weight")), kind)
        for name, kind in matrices.items()
    )
    return ", ".join(f"{name} ({count}): {kind}" for (name, kind), count in counts.items())


def _cell(row: dict[str, Any], column: tuple[str, str, str]) -> str:
    _, key, form = column
    if key not in row:
        return ""
    value = row[key] / _MEGABYTE if key.endswith("_bytes") else row[key]
    return form.format(value)
