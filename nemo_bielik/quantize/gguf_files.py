"""The files for llama.cpp: what they will be, how they are made, and what each costs."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.files import atomic_file
from nemo_bielik.progress import progress
from nemo_bielik.quantize.config import QuantizeConfig
from nemo_bielik.quantize.formats import FORMATS, QuantizedFormat
from nemo_bielik.quantize.gguf_file import write_gguf
from nemo_bielik.quantize.gguf_plan import FilePlan, plan_files, read_file
from nemo_bielik.quantize.gguf_tensors import gguf_tensors, native_type
from nemo_bielik.quantize.importance import collect_importance
from nemo_bielik.quantize.inputs import Inputs
from nemo_bielik.quantize.llama_cpp import Importance, quantize_file
from nemo_bielik.quantize.measure import compare_files
from nemo_bielik.quantize.memory import Memory, importance_memory
from nemo_bielik.quantize.table import with_cards

ENGINE = "llama.cpp"


@dataclass(frozen=True)
class GgufFiles:
    """The GGUF formats of a quantisation, and the unquantised file that they are made from."""

    config: QuantizeConfig
    source: Checkpoint

    engine = ENGINE

    @property
    def base(self) -> QuantizedFormat:
        """The unquantised format that holds the model exactly."""
        return FORMATS[native_type(self.source)]

    @cached_property
    def plans(self) -> list[FilePlan]:
        """What each file that was asked for will be."""
        return plan_files(self.source, self.config.gguf_formats, bool(self.config.texts))

    def sizes(self, work: Path) -> dict[Path, int]:
        """Return the bytes of every file to make, the unquantised one included."""
        plans = [*plan_files(self.source, [self.base]), *self.plans]
        return {self.config.path(work, plan.wanted): plan.num_bytes for plan in plans}

    def needs(self, work: Path) -> list[Memory]:
        """Return the memory of the steps that load the model."""
        missing = [one for one in self.config.gguf_formats if self._is_missing(work, one)]
        if not self.config.texts or all(one.maker == "gguf" for one in missing):
            return []
        return [importance_memory(self.source, self.config.sequence_length)]

    def lines(self) -> list[str]:
        """Return the lines of a dry run: every file's size and types."""
        return [plan.line() for plan in self.plans]

    def make(self, work: Path, inputs: Inputs) -> None:
        """Write what is not there yet; a file appears whole or not at all."""
        importance: Importance | None = None
        for wanted in dict.fromkeys([self.base, *self.config.gguf_formats]):
            if not self._is_missing(work, wanted):
                continue
            if wanted.maker == "llama.cpp" and inputs.calibration and importance is None:
                importance = collect_importance(self.source, inputs.calibration)
            with atomic_file(self.config.path(work, wanted)) as scratch:
                self._write(wanted, work, scratch, importance)

    def rows(self, work: Path, inputs: Inputs) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the rows of the table, and the unquantised file's figures if any were taken."""
        rows = [self._row(work, plan.wanted) for plan in self.plans]
        if not self.config.measures:
            return rows, {}
        files = {row["format"]: work / row["file"] for row in rows}
        base = self.config.path(work, self.base)
        found = compare_files(base, files, inputs, self.config.threads)
        return [row | found[row["format"]] for row in rows], found["base"]

    def _is_missing(self, work: Path, wanted: QuantizedFormat) -> bool:
        return not self.config.path(work, wanted).is_file()

    def _row(self, work: Path, wanted: QuantizedFormat) -> dict[str, Any]:
        file = self.config.path(work, wanted)
        row = {"file": file.name, "engine": ENGINE, **read_file(file, wanted).figures()}
        return with_cards(row, self.source.arch, self.config.context_of(self.source.arch))

    def _write(
        self, wanted: QuantizedFormat, work: Path, scratch: Path, importance: Importance | None
    ) -> None:
        """Write one file, with a progress bar."""
        config, source = self.config, self.source
        if wanted.maker == "gguf":
            total = sum(tensor.num_bytes for tensor in gguf_tensors(source, wanted.name))
            with progress(total=total, unit="B", unit_scale=True, desc=wanted.name) as bar:
                name = config.model.resolve().name
                write_gguf(source, wanted.name, scratch, bar.update, name)
            return
        base = config.path(work, self.base)
        count = len(gguf_tensors(source, self.base.name))
        with progress(total=count, unit="tensor", desc=wanted.name) as bar:
            quantize_file(base, scratch, wanted, importance, config.threads, bar.update)
