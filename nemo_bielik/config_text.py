"""Configurations as plain values and as text: for dry runs, manifests and help."""

import dataclasses
import json
from collections.abc import Iterator
from enum import Enum
from typing import Any


def to_plain(value: Any) -> Any:
    """Return `value` as dictionaries, lists and scalars that JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(to_plain(key)): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def format_config(config: Any) -> str:
    """Return `config` as indented YAML, one setting a line."""
    return "\n".join(_yaml_lines(to_plain(config), 0))


def _yaml_lines(value: dict[str, Any], indent: int) -> Iterator[str]:
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield f"{'  ' * indent}{key}:"
            yield from _yaml_lines(item, indent + 1)
        else:
            yield f"{'  ' * indent}{key}: {json.dumps(item, ensure_ascii=False)}"
