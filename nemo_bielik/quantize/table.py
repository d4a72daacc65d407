"""The table of quantised files: size, bits, what each costs, and the cards it fits."""

from typing import Any

from nemo_bielik.arch import ModelArch
from nemo_bielik.planner.cards import CardsConfig, context_beside, small_cards
from nemo_bielik.planner.table import align


def with_cards(row: dict[str, Any], arch: ModelArch, context: int) -> dict[str, Any]:
    """Return `row` with the longest context that fits beside its bytes, card by card."""
    config = CardsConfig(context=context)
    longest = {
        card.name: context_beside(arch, row["bytes"], card, config) for card in small_cards()
    }
    wanted = min(context, arch.max_position_embeddings)
    fits = [name for name, tokens in longest.items() if tokens >= wanted]
    return {**row, "longest_context": longest, "fits": fits}


def format_table(results: dict[str, Any], context: int) -> str:
    """Return the table as text; figures that were not measured have no column."""
    rows = results["formats"]
    head = ["format", "MB", "bits/weight", "in named type", f"cards at {context:,}"]
    measured = [
        ("perplexity", "perplexity", "{:.3f}"),
        ("loss %", "loss_percent", "{:+.2f}"),
        ("KL", "kl", "{:.5f}"),
        ("top-1", "top1_agreement", "{:.1%}"),
        ("tokens/s", "tokens_per_second", "{:.1f}"),
    ]
    measured = [column for column in measured if rows and column[1] in rows[0]]
    body = []
    for row in rows:
        cards = f"{len(row['fits'])} of {len(row['longest_context'])}"
        share = f"{row['named_share']:.1%} {row['named_type']}"
        cells = [row["format"], f"{row['bytes'] / 1e6:,.1f}", f"{row['bits_per_weight']:.2f}"]
        cells += [share, cards, *(form.format(row[key]) for _, key, form in measured)]
        body.append(cells)
    table = align([*head, *(title for title, _, _ in measured)], body)
    notes = [
        f"{row['format']}: rows of {len(row['indivisible'])} matrices do not divide into "
        f"{row['named_type']} blocks; llama.cpp used "
        f"{', '.join(sorted(set(row['indivisible'].values())))} for them"
        for row in rows
        if row["indivisible"]
    ]
    return "\n".join([table, *notes])
