"""The checkpoints for servers: what they will be, how they are made, and what each costs."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nemo_bielik.checkpoint import Checkpoint, copy_tokenizer
from nemo_bielik.files import atomic_directory
from nemo_bielik.quantize.config import QuantizeConfig
from nemo_bielik.quantize.inputs import Inputs
from nemo_bielik.quantize.memory import (
    Memory,
    calibration_memory,
    output_bytes,
    simulation_memory,
)
from nemo_bielik.quantize.modelopt_formats import ServerFormat
from nemo_bielik.quantize.modelopt_layers import LayerChoice, choose_layers, linear_shapes
from nemo_bielik.quantize.table import with_cards
from nemo_bielik.tensors import tensor_rows

ENGINE = "transformers"
#: Names that a line shows of layers that a format cannot hold; the table has all.
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class ServerFiles:
    """The formats for servers of a quantisation, each with the layers that it takes."""

    config: QuantizeConfig
    source: Checkpoint

    engine = ENGINE

    @cached_property
    def layers(self) -> dict[ServerFormat, LayerChoice]:
        """Which layers each format takes; `ConfigError` if there is none to take."""
        return {
            kind: choose_layers(self.source.arch, self.config.precision(kind))
            for kind in self.config.server_formats
        }

    def sizes(self, work: Path) -> dict[Path, int]:
        """Return about how many bytes every checkpoint to make will take."""
        return {
            self.config.path(work, kind): output_bytes(self.source, kind, layers)
            for kind, layers in self.layers.items()
        }

    def needs(self, work: Path) -> list[Memory]:
        """Return the memory of the steps that load the model."""
        config, source = self.config, self.source
        tokens = config.batch_size * config.sequence_length
        needs = [
            calibration_memory(source, tokens, kind, layers)
            for kind, layers in self.layers.items()
            if not config.path(work, kind).is_dir()
        ]
        needs = [max(needs, key=lambda one: one.total)] if needs else []
        if config.measures:
            measured = config.measured_tokens if config.held_out else 0
            exported = max(self.sizes(work).values())
            needs.append(simulation_memory(source, config.sequence_length, measured, exported))
        return needs

    def lines(self) -> list[str]:
        """Return the lines of a dry run: every checkpoint's size and layers."""
        lines = []
        for kind, layers in self.layers.items():
            size = output_bytes(self.source, kind, layers)
            total = len(layers.quantized) + len(layers.kept)
            lines.append(
                f"{kind.name:<8} {size:>15,} bytes {self._bits(size):>6.2f} bits a weight and "
                f"scales of matrices; {len(layers.quantized)} of {total} linear layers quantised"
            )
            lines += self._kept_lines(layers)
        return lines

    def make(self, work: Path, inputs: Inputs) -> None:
        """Write what is not there yet; a directory appears whole or not at all."""
        for kind, layers in self.layers.items():
            path = self.config.path(work, kind)
            if not path.is_dir():
                with atomic_directory(path) as scratch:
                    self._write(kind, layers, inputs.calibration, scratch)

    def rows(self, work: Path, inputs: Inputs) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the rows of the table, and the unquantised model's figures if any were taken."""
        rows = [self._row(work, kind, layers) for kind, layers in self.layers.items()]
        if not self.config.measures:
            return rows, {}
        from nemo_bielik.quantize.simulated import compare_simulated

        directories = {row["format"]: work / row["file"] for row in rows}
        found = compare_simulated(self.source, directories, inputs)
        return [row | found[row["format"]] for row in rows], found["base"]

    def _write(
        self, kind: ServerFormat, layers: LayerChoice, windows: list[list[int]], scratch: Path
    ) -> None:
        with warnings.catch_warnings():  # of Megatron, which ModelOpt imports and we do not use
            warnings.simplefilter("ignore")
            from nemo_bielik.quantize import modelopt

        modelopt.write_checkpoint(
            self.source.directory,
            scratch,
            kind,
            layers,
            windows,
            quantize_cache=self.config.kv_cache == "fp8",
            batch_size=self.config.batch_size,
        )
        copy_tokenizer(self.source.directory, scratch)

    def _row(self, work: Path, kind: ServerFormat, layers: LayerChoice) -> dict[str, Any]:
        directory = self.config.path(work, kind)
        size = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
        shapes = linear_shapes(self.source.arch)
        weights = sum(shapes[name][0] * shapes[name][1] for name in layers.quantized)
        rounded = self.config.kv_cache == "none"
        row = {
            "file": directory.name,
            "engine": f"{ENGINE}, simulated" + ("" if rounded else " but for the cache"),
            "format": kind.name,
            "bytes": size,
            "bits_per_weight": self._bits(size),
            "named_type": kind.name,
            "named_share": weights / self._weights,
            "kept_layers": layers.kept,
            "indivisible": {name: self._dtype(name) for name in layers.unfit},
            "readers": kind.readers,
        }
        cache = "fp8" if self.config.kv_cache == "fp8" else "bf16"
        return with_cards(row, self.source.arch, self.config.context_of(self.source.arch), cache)

    def _kept_lines(self, layers: LayerChoice) -> list[str]:
        names: dict[str, list[str]] = {}
        for name, why in layers.unfit.items():
            names.setdefault(why, []).append(name)
        lines = []
        for why, unfit in names.items():
            more = f" and {len(unfit) - _NAMES_SHOWN} more" if len(unfit) > _NAMES_SHOWN else ""
            shown = ", ".join(unfit[:_NAMES_SHOWN])
            lines.append(f"kept in {self._dtype(unfit[0])}: {shown}{more}: {why}")
        return lines

    def _dtype(self, layer: str) -> str:
        return self.source.tensors[f"{layer}.weight"].dtype

    @property
    def _weights(self) -> int:
        return sum(row.numel for row in tensor_rows(self.source.arch))

    def _bits(self, size: int) -> float:
        return 8 * size / self._weights
