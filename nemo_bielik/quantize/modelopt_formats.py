"""The formats that ModelOpt writes for servers: what each stores, and who reads it. No torch."""

from dataclasses import dataclass

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
    """

    name: str
    modelopt: str
    block: int
    element_bits: int
    scale_bits: int
    inputs: str
    readers: str
    packs_rows: bool = False

    def num_bytes(self, rows: int, columns: int) -> int:
        """Return the bytes of a weight [rows, columns] with the scales of its blocks."""
        bits = rows * columns * self.element_bits
        if self.block > 1:
            bits += rows * (columns // self.block) * self.scale_bits
        return bits // 8


FORMATS: dict[str, ServerFormat] = {
    row.name: row
    for row in (
        ServerFormat("fp8", "FP8_DEFAULT_CFG", 1, 8, 0, "fp8", "vLLM, TensorRT-LLM"),
        ServerFormat("nvfp4", "NVFP4_DEFAULT_CFG", 16, 4, 8, "nvfp4", "vLLM, TensorRT-LLM"),
        ServerFormat("int4-awq", "INT4_AWQ_CFG", 128, 4, 32, "", "TensorRT-LLM", packs_rows=True),
        ServerFormat("int8", "INT8_SMOOTHQUANT_CFG", 1, 8, 0, "int8", ""),
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
