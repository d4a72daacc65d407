"""The formats that ModelOpt writes for servers: what each stores, and who reads it. No torch."""

from dataclasses import dataclass
from typing import Literal

from nemo_bielik.errors import ConfigError, nearest


@dataclass(frozen=True)
class ServerFormat:
    """One row of the table.

    Attributes:
        modelopt: name of ModelOpt's own configuration of it.
        block: weights along a row that share a scale; 1 where rows may have any length.
        element_bits: of a weight.
        scale_bits: of a block's scale, where there are blocks.
        inputs: what the layers' inputs are rounded to; "" where they stay as they are.
        readers: servers whose documentation lists it.
        packs_rows: two rows share a byte, so their number must be even.
        row_scale_bits: of a row's scale, where each row has one.
        smooths: which matrices carry a scale for each column: each, or those alone with their
            input; shared ones go into the norm before, for which the matrices are made anew.
    """

    name: str
    modelopt: str
    block: int
    element_bits: int
    scale_bits: int
    inputs: str
    readers: str
    packs_rows: bool = False
    row_scale_bits: int = 0
    smooths: Literal["", "each", "shared"] = ""

    def num_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of a weight [rows, columns] with the scales of its blocks or rows."""
        bits = rows * columns * self.element_bits + rows * self.row_scale_bits
        if self.block > 1:
            bits += rows * (columns // self.block) * self.scale_bits
        return bits // 8


FORMATS: dict[str, ServerFormat] = {
    row.name: row
    for row in (
        ServerFormat("fp8", "FP8_DEFAULT_CFG", 1, 8, 0, "fp8", "vLLM, TensorRT-LLM"),
        ServerFormat("nvfp4", "NVFP4_DEFAULT_CFG", 16, 4, 8, "nvfp4", "vLLM, TensorRT-LLM"),
        ServerFormat("int4-awq", "INT4_AWQ_CFG", 128, 4, 32, "", "TensorRT-LLM", True, 0, "shared"),
        ServerFormat("int8", "INT8_SMOOTHQUANT_CFG", 1, 8, 0, "int8", "", False, 32, "each"),
    )
}


def find_format(name: str) -> ServerFormat:
    """Return the format called `name`; an unknown one raises `ConfigError`."""
    if name not in FORMATS:
        raise ConfigError(
            f"format is {name!r}{nearest(name.lower().replace('_', '-'), FORMATS)}; "
            f"known are {', '.join(FORMATS)}"
        )
    return FORMATS[name]
