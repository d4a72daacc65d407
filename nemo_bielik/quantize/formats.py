"""The one table of formats: what each is called, who makes it and how many bits a weight takes.

llama.cpp's are here, those of servers in `modelopt_formats`; `find_formats` knows both.

llama.cpp's formats are mixtures: ``Q4_K_M`` stores most matrices as ``Q4_K`` and some as ``Q6_K``.
Bits are those of the block type that a format is named after; a file's own are in its table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nemo_bielik.errors import ConfigError, nearest
from nemo_bielik.quantize.modelopt_formats import FORMATS as SERVER_FORMATS
from nemo_bielik.quantize.modelopt_formats import ServerFormat

Maker = Literal["gguf", "llama.cpp"]


@dataclass(frozen=True)
class QuantizedFormat:
    """One row of the table.

    Attributes:
        maker: ``gguf`` writes it from the checkpoint, ``llama.cpp`` from that file.
        bits: bits a weight of `block_type`, scales included.
        block_type: the tensor type that the format is named after, as GGUF calls it.
        file_type: llama.cpp's number of it (``llama_ftype``).
        needs_importance: whether llama.cpp refuses to make it without an importance matrix.
    """

    name: str
    maker: Maker
    bits: float
    block_type: str = ""
    file_type: int = -1
    needs_importance: bool = False


def _gguf(
    name: str, block_type: str, bits: float, file_type: int, needs_importance: bool = False
) -> QuantizedFormat:
    maker: Maker = "gguf" if name in ("F32", "F16", "BF16") else "llama.cpp"
    return QuantizedFormat(name, maker, bits, block_type, file_type, needs_importance)


#: From most bits to fewest. Bits follow from ggml's blocks: Q6_K keeps 256 weights in 210 bytes.
FORMATS: dict[str, QuantizedFormat] = {
    row.name: row
    for row in (
        _gguf("F32", "F32", 32, 0),
        _gguf("F16", "F16", 16, 1),
        _gguf("BF16", "BF16", 16, 32),
        _gguf("Q8_0", "Q8_0", 8.5, 7),
        _gguf("Q6_K", "Q6_K", 6.5625, 18),
        _gguf("Q5_K_M", "Q5_K", 5.5, 17),
        _gguf("Q5_K_S", "Q5_K", 5.5, 16),
        _gguf("Q5_1", "Q5_1", 6, 9),
        _gguf("Q5_0", "Q5_0", 5.5, 8),
        _gguf("Q4_K_M", "Q4_K", 4.5, 15),
        _gguf("Q4_K_S", "Q4_K", 4.5, 14),
        _gguf("Q4_1", "Q4_1", 5, 3),
        _gguf("Q4_0", "Q4_0", 4.5, 2),
        _gguf("IQ4_NL", "IQ4_NL", 4.5, 25),
        _gguf("IQ4_XS", "IQ4_XS", 4.25, 30),
        _gguf("Q3_K_L", "Q3_K", 3.4375, 13),
        _gguf("Q3_K_M", "Q3_K", 3.4375, 12),
        _gguf("Q3_K_S", "Q3_K", 3.4375, 11),
        _gguf("IQ3_M", "IQ3_S", 3.4375, 27),
        _gguf("IQ3_S", "IQ3_S", 3.4375, 26),
        _gguf("IQ3_XS", "IQ3_S", 3.4375, 22),
        _gguf("IQ3_XXS", "IQ3_XXS", 3.0625, 23, needs_importance=True),
        _gguf("Q2_K", "Q2_K", 2.625, 10),
        _gguf("Q2_K_S", "Q2_K", 2.625, 21, needs_importance=True),
        _gguf("IQ2_M", "IQ2_S", 2.5625, 29, needs_importance=True),
        _gguf("IQ2_S", "IQ2_XS", 2.3125, 28, needs_importance=True),
        _gguf("IQ2_XS", "IQ2_XS", 2.3125, 20, needs_importance=True),
        _gguf("IQ2_XXS", "IQ2_XXS", 2.0625, 19, needs_importance=True),
        _gguf("TQ2_0", "TQ2_0", 2.0625, 37),
        _gguf("TQ1_0", "TQ1_0", 1.6875, 36),
        _gguf("IQ1_M", "IQ1_M", 1.75, 31, needs_importance=True),
        _gguf("IQ1_S", "IQ1_S", 1.5625, 24, needs_importance=True),
    )
}
#: What ``--all`` makes: the report's row, its Table 13.
REPORT_FORMATS = ("Q8_0", "Q6_K", "Q4_K_M", "fp8", "nvfp4")
AnyFormat = QuantizedFormat | ServerFormat


def find_formats(names: Sequence[str]) -> list[AnyFormat]:
    """Return the formats called `names`, each once; raise `ConfigError` for none or an unknown."""
    if not names:
        raise ConfigError("formats is empty; give at least one, such as Q4_K_M or fp8, or --all")
    return list({row.name: row for row in map(_find, names)}.values())


def _find(name: str) -> AnyFormat:
    """Return the format called `name`, in any case; raise `ConfigError` with the nearest one."""
    rows: list[AnyFormat] = [*FORMATS.values(), *SERVER_FORMATS.values()]
    known = {_plain(row.name): row for row in rows}
    if _plain(name) not in known:
        names = [row.name for row in rows]
        hint = nearest(name, names) or nearest(name.upper().replace("-", "_"), names)
        raise ConfigError(f"formats: no {name!r}{hint}; known are {', '.join(names)}")
    return known[_plain(name)]


def _plain(name: str) -> str:
    return name.upper().replace("-", "_")
