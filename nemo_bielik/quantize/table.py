"""The table of formats: size, bits, what each costs, and the cards it fits."""

from collections import Counter
from typing import Any

from nemo_bielik.arch import ModelArch
from nemo_bielik.planner.cards import CardsConfig, context_beside, small_cards
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
    """Return `row` with the longest context that fits beside its bytes, card by card."""
    config = CardsConfig(context=context, cache_precision=cache_precision)
    longest = {
        card.name: context_beside(arch, row["bytes"], card, config) for card in small_cards()
    }
    wanted = min(context, arch.max_position_embeddings)
    fits = [name for name, tokens in longest.items() if tokens >= wanted]
    return {**row, "longest_context": longest, "fits": fits}


def format_table(results: dict[str, Any]) -> str:
    """Return the table as text; figures that were not measured have no column."""
    rows = results["formats"]
    measured = [column for column in _MEASURED if any(column[1] in row for row in rows)]
    head = ["format", "MB", "bits/weight", "in named type", f"cards at {results['context']:,}"]
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
    return "\n".join([table, *(note for row in rows for note in notes(row))])


def notes(row: dict[str, Any]) -> list[str]:
    """Return what is to be said of a format: matrices that its blocks do not divide."""
    if not row["indivisible"]:
        return []
    kinds = Counter(row["indivisible"].values())
    used = ", ".join(sorted(kinds))
    return [
        f"{row['format']}: rows of {sum(kinds.values())} matrices do not divide into "
        f"{row['named_type']} blocks; {used} is used for them"
    ]


def _cell(row: dict[str, Any], column: tuple[str, str, str]) -> str:
    _, key, form = column
    if key not in row:
        return ""
    value = row[key] / _MEGABYTE if key.endswith("_bytes") else row[key]
    return form.format(value)
