"""What a NeMo 2 pruning recipe states; NeMo itself is not imported here."""

from dataclasses import dataclass, field

from nemo_bielik.arch import ModelArch, preset
from nemo_bielik.errors import ConfigError

#: ModelOpt 0.43's `mcore_minitron` knows only multiples of these, `llm.prune` cannot change them,
#: and a target in between is ignored while the saved configuration takes it.
DIVISORS = {"num_layers": 2, "hidden_size": 256, "ffn_hidden_size": 512}


@dataclass(kw_only=True)
class Nemo2Prune:
    """One cut by NeMo 2's own `llm.prune`, from one architecture preset to another."""

    source: str = field(default="bielik-11b-v3", metadata={"help": "architecture to cut"})
    target: str = field(metadata={"help": "architecture to cut it to"})
    samples: int = field(default=1024, metadata={"help": "calibration sequences"})
    sequence_length: int = field(default=4096, metadata={"help": "tokens a calibration sequence"})

    def __post_init__(self) -> None:
        for name in ("samples", "sequence_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name, size in self.sizes().items():
            divisor = DIVISORS.get(name, 1)
            if size % divisor:
                raise ConfigError(
                    f"{self.target}: {name} is {size}, and NeMo 2's pruning ignores what is no "
                    f"multiple of {divisor}; cut it with `bielik prune`, which takes any size"
                )

    def sizes(self) -> dict[str, int]:
        """Return the sizes to cut to; raise `ConfigError` unless they are what differs."""
        source, target = preset(self.source), preset(self.target)
        cut = {
            name: getattr(target, name)
            for name in _PRUNABLE
            if getattr(target, name) != getattr(source, name)
        }
        if source.replace(name=target.name, **cut) != target or not _smaller(source, cut):
            raise ConfigError(
                f"{self.target} is no cut of {self.source}; only {', '.join(_PRUNABLE)} may "
                "differ, and at least one must, by being smaller"
            )
        return cut


_PRUNABLE = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
)


def _smaller(source: ModelArch, cut: dict[str, int]) -> bool:
    return bool(cut) and all(size < getattr(source, name) for name, size in cut.items())
