"""Coupled groups: which slices of which tensors stand or fall with one prunable unit.

The dependency graph of LLM-Pruner (Ma et al. 2023), read off the axis table of
`nemo_bielik.tensors` instead of being traced: tensors that share an axis are coupled, so unit k of
an axis couples slice k of every tensor that has it. An ffn channel couples a row of the gate and
the up projection with a column of the down projection.
"""

from dataclasses import dataclass

from nemo_bielik.arch import ModelArch
from nemo_bielik.tensors import LAYER_TENSORS, MODEL_TENSORS, OPTIONAL_LAYER_TENSORS, Axes


@dataclass(frozen=True)
class Member:
    """One tensor's part in the groups of a kind of unit.

    Attributes:
        tensor: name within its layer (``mlp.up_proj.weight``), or whole name outside the layers.
        dim: dimension along which the units lie; None: the whole tensor belongs to the unit.
        axis: the axis of that dimension, ``layer`` for a whole tensor.
    """

    tensor: str
    dim: int | None
    axis: str


def coupled_groups(arch: ModelArch) -> dict[str, tuple[Member, ...]]:
    """Return what a group of every kind of unit holds; what runs last comes last.

    - ``layers``: all tensors of a layer, whole;
    - ``hidden``: channel k of everything that reads or writes the residual stream: embedding, both
      norms and all projections of every layer, final norm, output layer. One group for the model;
    - ``ffn``: rows of gate and up and columns of down, in one layer;
    - ``heads``: a query head's rows of q and columns of o, in one layer;
    - ``groups``: a query group's rows of k and v with all that its heads couple, in one layer: no
      head can stand without its group's keys and values.
    """
    in_layer = layer_tensors(arch)
    everything = _model_tensors(arch) | in_layer
    found = {
        "layers": [Member(tensor, None, "layer") for tensor in in_layer],
        "hidden": _sharing(everything, "hidden"),
        "ffn": _sharing(in_layer, "ffn"),
        "heads": _sharing(in_layer, "heads"),
        "groups": _sharing(in_layer, "groups") + _sharing(in_layer, "heads"),
    }
    return {unit: tuple(_ends_last(members, arch)) for unit, members in found.items()}


def layer_tensors(arch: ModelArch) -> dict[str, Axes]:
    """Return the tensors of one layer of `arch` with their axes."""
    optional = {name: OPTIONAL_LAYER_TENSORS[name] for name in arch.family.optional_tensors}
    return LAYER_TENSORS | optional


def _model_tensors(arch: ModelArch) -> dict[str, Axes]:
    return {
        name: axes
        for name, axes in MODEL_TENSORS.items()
        if not (arch.tie_word_embeddings and name == "lm_head.weight")
    }


def _sharing(tensors: dict[str, Axes], axis: str) -> list[Member]:
    return [
        Member(tensor, axes.index(axis), axis) for tensor, axes in tensors.items() if axis in axes
    ]


def _ends_last(members: list[Member], arch: ModelArch) -> list[Member]:
    """Move what ends the attention, the MLP and the model to the end, in this order."""
    output = "model.embed_tokens.weight" if arch.tie_word_embeddings else "lm_head.weight"
    ends = ["self_attn.o_proj.weight", "mlp.down_proj.weight", "model.norm.weight", output]
    return sorted(members, key=lambda m: ends.index(m.tensor) if m.tensor in ends else -1)
