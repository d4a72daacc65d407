"""Sizes to take or to cut to, as a setting: `ModelArch` with only what is named."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class Shape:
    """Sizes of a model; what is not given stays as it is."""

    num_layers: int | None = None
    hidden_size: int | None = None
    ffn_hidden_size: int | None = None
    num_attention_heads: int | None = None
    num_query_groups: int | None = None

    def given(self) -> dict[str, int]:
        """Return the sizes that are set."""
        return {name: size for name, size in vars(self).items() if size is not None}
