"""Which layers a training run rounds to few bits while it trains the weights behind them."""

from dataclasses import dataclass, field

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError, nearest
from nemo_bielik.quantize.modelopt_formats import find_format
from nemo_bielik.quantize.modelopt_layers import PrecisionConfig, choose_layers, linear_shapes

#: Those whose rounding is our own arithmetic.
TRAINED_FORMATS = ("nvfp4", "fp8")
#: Megatron splits the rows of these over tensor-parallel ranks.
_SPLIT_ROWS = ("o_proj", "down_proj")


@dataclass(kw_only=True)
class FakeQuantizationConfig(PrecisionConfig):
    """Linear layers compute in a format of few bits while the weights behind them are trained."""

    format: str = field(
        default="",
        metadata={"help": f"{' or '.join(TRAINED_FORMATS)}: train for this format; empty: none"},
    )

    def _check_format(self) -> None:
        if self.format not in ("", *TRAINED_FORMATS):
            raise ConfigError(
                f"quantization.format is {self.format!r}{nearest(self.format, TRAINED_FORMATS)}; "
                f"training knows {' and '.join(TRAINED_FORMATS)}, and empty for none"
            )
        if not self.format and (self.keep or self.keep_first or self.keep_last):
            raise ConfigError("quantization.keep means nothing without quantization.format")


def check_quantization(
    settings: FakeQuantizationConfig, tensor: int, checkpoint: Checkpoint
) -> None:
    """Raise `ConfigError` unless every layer to round can be, on each of `tensor` ranks."""
    if not settings.format:
        return
    block, shapes = find_format(settings.format).block, linear_shapes(checkpoint.arch)
    for name in choose_layers(checkpoint.arch, settings).quantized:
        inputs = shapes[name][1]
        if name.endswith(_SPLIT_ROWS) and inputs % (block * tensor):
            raise ConfigError(
                f"quantization.format={settings.format}: {name} has rows of {inputs}, which "
                f"parallel.tensor={tensor} does not divide at blocks of {block}; choose a smaller "
                "parallel.tensor or name it in quantization.keep"
            )
