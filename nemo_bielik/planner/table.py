"""``bielik plan``: a source model beside its candidates, as tables or as one JSON object."""

import json as json_format
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nemo_bielik.arch import BIELIK_11B_V3, EXPERIMENTS, ModelArch, tiny
from nemo_bielik.errors import ConfigError
from nemo_bielik.planner.flops import forward_flops_per_token, training_flops_per_token
from nemo_bielik.planner.memory import PRECISIONS, kv_cache_bytes, weights_bytes
from nemo_bielik.planner.parameters import (
    count_one_embedding,
    count_parameters,
    reduction_percent,
)
from nemo_bielik.planner.specs import resolve_arch

_CACHE_PRECISIONS = ("bf16", "fp8", "nvfp4")
#: What the report's Table 2 prints where its own dimensions give another last digit.
_REPORT_MISPRINTS = {"exp-002": "7.90", "exp-003": "7.99"}
_MARK = "*"


@dataclass(kw_only=True)
class PlanConfig:
    """Parameters, bytes and FLOPs of a model and of smaller candidates.

    A model is a preset (exp-010), a model directory, or one of them with changes:
    source:num_layers=40,ffn_hidden_size=11264 ("source" is --source).
    """

    source: str = field(default=BIELIK_11B_V3.name, metadata={"help": "the model to compare with"})
    candidates: tuple[str, ...] = field(
        default=(), metadata={"help": "smaller models; of a Bielik preset, the report's ten"}
    )
    context: tuple[int, ...] = field(
        default=(4096, 32768), metadata={"help": "tokens of a sequence, for cache and FLOPs"}
    )
    json: bool = field(default=False, metadata={"help": "print one JSON object instead"})

    def __post_init__(self) -> None:
        wrong = [length for length in self.context if length < 1]
        if wrong or not self.context:
            raise ConfigError(f"context is {wrong or 'empty'}; give lengths of at least 1 token")


def print_plan(config: PlanConfig) -> None:
    """Print the plan that `config` asks for."""
    source, candidates = resolve_models(config)
    if config.json:
        print(json_format.dumps(plan(source, candidates, config.context), indent=2))
    else:
        print(format_plan(source, candidates, config.context))


def resolve_models(config: PlanConfig) -> tuple[ModelArch, list[ModelArch]]:
    """Return the source and the candidates, by default the report's ten for a Bielik source."""
    source = resolve_arch(config.source)
    if config.candidates:
        return source, [resolve_arch(spec, source) for spec in config.candidates]
    if source == BIELIK_11B_V3:
        return source, list(EXPERIMENTS.values())
    if source == tiny(BIELIK_11B_V3):
        return source, [tiny(arch) for arch in EXPERIMENTS.values()]
    return source, []


def plan(
    source: ModelArch, candidates: Sequence[ModelArch], context: Sequence[int]
) -> dict[str, Any]:
    """Return the plan as plain values: one row for the source and one for every candidate."""
    return {
        "source": _row(source, source, context),
        "candidates": [_row(source, candidate, context) for candidate in candidates],
    }


def _row(source: ModelArch, arch: ModelArch, context: Sequence[int]) -> dict[str, Any]:
    row = {
        "name": arch.name,
        "hidden_size": arch.hidden_size,
        "ffn_hidden_size": arch.ffn_hidden_size,
        "num_layers": arch.num_layers,
        "num_attention_heads": arch.num_attention_heads,
        "num_query_groups": arch.num_query_groups,
        "head_dim": arch.head_dim,
        "vocab_size": arch.vocab_size,
        "tie_word_embeddings": arch.tie_word_embeddings,
        "params": count_parameters(arch),
        "params_one_embedding": count_one_embedding(arch),
        "reduction_percent": round(reduction_percent(source, arch), 4),
        "weights_bytes": {name: weights_bytes(arch, name) for name in PRECISIONS},
        "kv_cache_bytes": {
            name: {str(length): kv_cache_bytes(arch, name, length) for length in context}
            for name in _CACHE_PRECISIONS
        },
        "forward_flops_per_token": {
            str(length): forward_flops_per_token(arch, length) for length in context
        },
        "training_flops_per_token": {
            str(length): training_flops_per_token(arch, length) for length in context
        },
    }
    if _is_misprint(arch):
        row["note"] = f"the report's Table 2 prints {_REPORT_MISPRINTS[arch.name]} B"
    return row


def format_plan(source: ModelArch, candidates: Sequence[ModelArch], context: Sequence[int]) -> str:
    """Return the plan as three aligned tables and the notes they need."""
    rows = [_row(source, arch, context) for arch in (source, *candidates)]
    tables = (_parameter_table(rows), _memory_table(rows, context), _flops_table(rows, context))
    return "\n\n".join([*tables, "\n".join(_notes(rows))])


def _parameter_table(rows: list[dict[str, Any]]) -> str:
    divisor, unit = _scale(rows[0]["params_one_embedding"], 1000, ("", "K", "M", "B"))
    dimensions = {"hidden_size": "hidden", "ffn_hidden_size": "ffn", "num_layers": "layers"}
    head = ["on disk", "one embedding", f"in {unit}" if unit else "count", "reduction"]
    cells = [
        [
            *(str(row[dimension]) for dimension in dimensions),
            f"{row['params']:,}",
            f"{row['params_one_embedding']:,}",
            f"{row['params_one_embedding'] / divisor:.2f}",
            f"{row['reduction_percent']:.1f} %",
        ]
        for row in rows
    ]
    title = "Parameters (reduction: of the count with one embedding matrix, as in the report)"
    return _table(title, [*dimensions.values(), *head], rows, cells)


def _memory_table(rows: list[dict[str, Any]], context: Sequence[int]) -> str:
    largest = rows[0]["weights_bytes"]["bf16"]
    divisor, unit = _scale(largest, 1024, ("bytes", "KiB", "MiB", "GiB", "TiB"))
    head = [*PRECISIONS, *(f"{p}@{_short(c)}" for p in _CACHE_PRECISIONS for c in context)]
    cells = [
        [
            _three_digits(size / divisor)
            for sizes in (row["weights_bytes"], *row["kv_cache_bytes"].values())
            for size in sizes.values()
        ]
        for row in rows
    ]
    title = f"Memory in {unit}: weights by precision; key/value cache of one sequence @ its tokens"
    return _table(title, head, rows, cells)


def _flops_table(rows: list[dict[str, Any]], context: Sequence[int]) -> str:
    kinds = {"forward_flops_per_token": "forward", "training_flops_per_token": "training"}
    largest = rows[0]["forward_flops_per_token"][str(context[0])]
    divisor, unit = _scale(largest, 1000, ("", "kilo", "mega", "giga", "tera"))
    head = [f"{kind}@{_short(c)}" for kind in kinds.values() for c in context]
    cells = [
        [_three_digits(flops / divisor) for kind in kinds for flops in row[kind].values()]
        for row in rows
    ]
    return _table(f"{unit}FLOPs per token of a sequence @ its tokens", head, rows, cells)


def _table(title: str, head: list[str], rows: list[dict[str, Any]], cells: list[list[str]]) -> str:
    names = [row["name"] + (_MARK if "note" in row else "") for row in rows]
    body = [[name, *values] for name, values in zip(names, cells, strict=True)]
    return f"{title}\n{align(['model', *head], body)}"


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    notes = [
        "fp8, nvfp4: the linear layers of the blocks with their scales (nvfp4: an 8-bit one per 16"
        " elements); the rest in bf16.",
        "Training is forward and backward, 3 × forward; attention under the causal mask.",
    ]
    misprints = [f"{row['name']}: {row['note']}" for row in rows if "note" in row]
    if misprints:
        notes.append(f"{_MARK} {'; '.join(misprints)}; its own dimensions give ours.")
    return notes


def _is_misprint(arch: ModelArch) -> bool:
    return arch.name in _REPORT_MISPRINTS and arch == EXPERIMENTS[arch.name]


def _short(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)


def _scale(value: float, step: int, units: Sequence[str]) -> tuple[float, str]:
    """Return the divisor and the name of the largest unit that leaves `value` at 1 or more."""
    power = max((i for i in range(len(units)) if value >= step**i), default=0)
    return float(step**power), units[power]


def _three_digits(value: float) -> str:
    return f"{value:#.3g}" if value < 100 else f"{value:,.0f}"


def align(head: list[str], rows: list[list[str]]) -> str:
    """Return a table with its first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for cells in (head, *rows):
        first, *rest = (
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append("  ".join(["", first, *rest]).rstrip())
    return "\n".join(lines)
