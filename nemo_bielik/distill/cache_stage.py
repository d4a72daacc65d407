"""The stage that runs a teacher once over its text and keeps its likeliest tokens on disk."""

import dataclasses
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.checks import check_choices
from nemo_bielik.data.sources import Packing, check_blend, data_fingerprints
from nemo_bielik.distill.cache_format import STAGE, RecordLayout
from nemo_bielik.distill.cache_plan import Plan
from nemo_bielik.errors import ConfigError
from nemo_bielik.files import existing_parent, file_sha256
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig, check_layout
from nemo_bielik.phases import as_paths
from nemo_bielik.stages import describe as describe_stage
from nemo_bielik.stages import is_done
from nemo_bielik.training import Precision

if TYPE_CHECKING:
    from nemo_bielik.distill.stage import DistillConfig

#: Who computes what, which changes nothing but the last digits; a killed run may change it.
HOW = ("parallel", "micro_batch_size")
#: A shard is held in memory while it is made.
_LARGEST_SHARD_BYTES = 2**30


@dataclass(kw_only=True)
class CacheTeacherConfig:
    """A teacher's likeliest tokens for the text of a `bielik distill` with the same text settings.

    Text is found again by its content: batch sizes and the layout of either run are free.
    """

    teacher: Path = field(metadata={"help": "model directory of the original"})
    train_data: list[Path] = field(metadata={"help": "tokens that the distillation trains on"})
    output: Path = field(metadata={"help": "cache directory to make"})
    train_weights: list[float] = field(
        default_factory=list, metadata={"help": "its shares of several train_data"}
    )
    validation_data: Path | None = field(default=None, metadata={"help": "its held-out tokens"})
    packing: Packing = field(default="auto", metadata={"help": "its packing"})
    iters: int = field(default=1000, metadata={"help": "its optimizer steps"})
    global_batch_size: int = field(default=32, metadata={"help": "its sequences a step"})
    eval_iters: int = field(default=8, metadata={"help": "its global batches a validation"})
    sequence_length: int = field(default=4096, metadata={"help": "its tokens a sequence"})
    seed: int = field(default=1, metadata={"help": "its seed, which orders the text"})
    k: int = field(default=64, metadata={"help": "tokens kept of every distribution"})
    dtype: Literal["float16", "float32"] = field(
        default="float16", metadata={"help": "of the log-probabilities on disk"}
    )
    temperatures: list[float] = field(
        default_factory=lambda: [1.0],
        metadata={"help": "temperatures that the distillation may have; 4 bytes a token each"},
    )
    micro_batch_size: int = field(default=1, metadata={"help": "sequences a forward pass"})
    precision: Precision = field(default="fp32", metadata={"help": "the teacher runs in"})
    shard_rows: int = field(
        default=64, metadata={"help": "sequences a file; what a kill loses on each data rank"}
    )
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def __post_init__(self) -> None:
        check_choices(self)
        self.train_data = as_paths(self.train_data)
        check_blend(self.train_data, self.train_weights)
        self.parallel.require_whole_sequences("a cached teacher")
        for name in (
            *("iters", "global_batch_size", "eval_iters", "sequence_length", "seed"),
            *("k", "micro_batch_size", "shard_rows"),
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        wanted = self.temperatures
        if not wanted or not all(0 < t < math.inf for t in wanted) or len({*wanted}) < len(wanted):
            raise ConfigError(f"temperatures is {wanted}; give different ones, finite and above 0")

    @property
    def sequences(self) -> tuple[int, int]:
        """Sequences for training and for one validation."""
        held_out = self.eval_iters * self.global_batch_size if self.validation_data else 0
        return self.iters * self.global_batch_size, held_out

    def record_layout(self, vocab_size: int) -> RecordLayout:
        """Return what is stored of a position; raise `ConfigError` if k exceeds the vocabulary."""
        if self.k > vocab_size:
            raise ConfigError(
                f"k is {self.k}; the teacher's vocabulary has {vocab_size} tokens, choose at most "
                "that"
            )
        return RecordLayout(
            k=self.k,
            vocab_size=vocab_size,
            dtype=self.dtype,
            temperatures=tuple(self.temperatures),
        )

    def rows_per_shard(self, layout: RecordLayout) -> int:
        """Return `shard_rows`, or fewer where their records would take too much memory."""
        row_bytes = self.sequence_length * layout.bytes_per_token
        return max(1, min(self.shard_rows, _LARGEST_SHARD_BYTES // row_bytes))


def cache_for(distillation: "DistillConfig", output: Path) -> CacheTeacherConfig:
    """Return the settings of the cache that `distillation` could go on from instead of its teacher.

    The teacher runs in the distillation's own layout and precision.
    """
    assert distillation.teacher is not None
    shared = {part.name for part in dataclasses.fields(CacheTeacherConfig)} & {*vars(distillation)}
    settings = {name: getattr(distillation, name) for name in shared}
    settings |= {"output": output, "temperatures": [distillation.temperature]}
    if distillation.teacher_precision != "student":
        settings["precision"] = distillation.teacher_precision
    return CacheTeacherConfig(**settings)


def prepare(config: CacheTeacherConfig, teacher: Checkpoint) -> Manifest:
    """Check what the stage starts from and return its manifest: what decides the cache's content.

    Raises `ConfigError` for a layout or k that the teacher does not fit, `DataError` for no tokens.
    """
    check_layout(config.parallel, config.sequence_length, teacher)
    config.record_layout(teacher.arch.vocab_size)
    inputs = {"teacher": teacher.fingerprint(), **data_fingerprints(config)}
    manifest = describe_stage(STAGE, config, inputs, config.seed)
    content = {name: value for name, value in manifest.config.items() if name not in HOW}
    return dataclasses.replace(manifest, config=content)


def cache_teacher(config: CacheTeacherConfig) -> None:
    """Write `config.output`; what an unfinished run has written is kept, on any layout.

    Raises `StorageError` before the teacher is loaded if the disk has too little space.
    """
    teacher = Checkpoint.open(config.teacher)
    manifest = prepare(config, teacher)
    if is_done(config.output, manifest):
        return

    from nemo_bielik.megatron.teacher_pass import write_cache

    write_cache(config, teacher, manifest)


def complete(
    directory: Path,
    config: CacheTeacherConfig,
    manifest: Manifest,
    layout: RecordLayout,
    plan: Plan,
    seconds: float = 0.0,
) -> None:
    """Write beside the shards in `directory` what makes a cache of them: index and manifest."""
    plan.save_index(directory)
    positions, fragments = plan.shards.sum(axis=0).tolist()
    sequences, held_out = config.sequences
    results = {
        **dataclasses.asdict(layout),
        "bytes_per_token": layout.bytes_per_token,
        "bytes": layout.shard_bytes(positions, fragments),
        "positions": positions,
        "fragments": fragments,
        "shards": len(plan.shards),
        "sequences": sequences,
        "validation_sequences": held_out,
        "index_sha256": {path.name: file_sha256(path) for path in sorted(directory.glob("*.npy"))},
    }
    dataclasses.replace(manifest, wall_seconds=seconds, results=results).save(directory)


def describe(config: CacheTeacherConfig) -> list[str]:
    """Return the lines that ``bielik cache-teacher --dry-run`` adds: the size, at most."""
    teacher = Checkpoint.open(config.teacher)
    if is_done(config.output, prepare(config, teacher)):
        return [f"{config.output}: already done"]
    layout, rows = config.record_layout(teacher.arch.vocab_size), sum(config.sequences)
    most = rows * config.sequence_length * layout.bytes_per_token
    free = shutil.disk_usage(existing_parent(config.output)).free
    kept = f"{layout.k} of {layout.vocab_size:,} tokens in {layout.dtype}"
    return [
        f"{rows:,} sequences of {config.sequence_length:,} tokens",
        f"{layout.bytes_per_token:,} bytes a token that carries loss: {kept}, "
        f"remainders at T = {', '.join(f'{t:g}' for t in layout.temperatures)}",
        f"{most:,} bytes at most ({most / 1e9:,.2f} GB; {free / 1e9:,.2f} GB are free); less where "
        "text comes again or carries no loss, which is counted before the teacher is loaded",
    ]
