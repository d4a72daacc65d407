"""The distillation stage: a student directory and its teacher in, a recovered student out."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.distill.cache_format import TeacherCache
from nemo_bielik.distill.loss_config import LossConfig
from nemo_bielik.errors import CheckpointError, ConfigError
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig, check_layout
from nemo_bielik.stages import is_done
from nemo_bielik.training import TrainConfig, prepare

if TYPE_CHECKING:
    from nemo_bielik.megatron.teacher import TeacherSource


@dataclass(kw_only=True)
class TeacherParallelConfig:
    """How the teacher is split over the processes of `parallel`, where that is not as its student.

    It is as many times data-parallel as processes are left over.
    """

    tensor: int = field(
        default=0, metadata={"help": "the teacher's tensor-parallel size; 0: its student's"}
    )
    pipeline: int = field(
        default=0, metadata={"help": "the teacher's pipeline stages; 0: as many as its student's"}
    )

    def __post_init__(self) -> None:
        for name in ("tensor", "pipeline"):
            value = getattr(self, name)
            if value < 0:
                raise ConfigError(
                    f"teacher_parallel.{name} is {value}; it must be 0 (the student's) or more"
                )


@dataclass(kw_only=True)
class DistillConfig(TrainConfig):
    """Train `model`, the student, on the distribution of `teacher`, by the loss of `LossConfig`.

    The report calls its temperature high without a figure. Ours is 1, where the loss is the plain
    KL between the two models' predictions; docs/temperature.md measures 1 to 4.
    """

    teacher: Path | None = field(
        default=None, metadata={"help": "model directory of the original; or give cache"}
    )
    cache: Path | None = field(
        default=None, metadata={"help": "what `bielik cache-teacher` made, in place of teacher"}
    )
    teacher_precision: Literal["student", "fp32", "bf16"] = field(
        default="student",
        metadata={"help": "type that the teacher runs in; student: as `precision`"},
    )
    divergence: Literal["forward-kl", "reverse-kl", "jensen-shannon"] = field(
        default="forward-kl", metadata={"help": "what the two distributions are compared by"}
    )
    temperature: float = field(default=1.0, metadata={"help": "T of both softmaxes"})
    beta: float = field(default=0.5, metadata={"help": "teacher's share in jensen-shannon"})
    label_weight: float = field(
        default=0.0, metadata={"help": "share of the cross-entropy with the labels, 0 to 1"}
    )
    engine: Literal["bielik", "stock"] = field(
        default="bielik", metadata={"help": "stock: Megatron-Bridge's own distill(), to compare"}
    )
    teacher_parallel: TeacherParallelConfig = field(default_factory=TeacherParallelConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.teacher is None) == (self.cache is None):
            given = "neither" if self.teacher is None else "both"
            raise ConfigError(f"of teacher and cache, {given} is given; give exactly one")
        if self.cache is not None and self.phases:
            raise ConfigError(
                "a cache holds the text of one phase; leave phases empty or give teacher instead"
            )
        loss = self.loss
        if self.engine == "stock" and self.teacher_precision not in ("student", self.precision):
            raise ConfigError(
                f"engine=stock runs the teacher as the student, in {self.precision}; leave "
                "teacher_precision as it is"
            )
        if self.engine == "stock" and self.cache is not None:
            raise ConfigError(
                "engine=stock runs the teacher itself; give teacher instead of cache, or leave "
                "engine as it is"
            )
        if self.engine == "stock" and (loss.divergence != "forward-kl" or loss.label_weight):
            raise ConfigError(
                "engine=stock knows divergence=forward-kl with label_weight=0 only, not "
                f"{loss.divergence} with {loss.label_weight}; leave engine as it is"
            )
        if self.engine == "stock" and self.quantization.format:
            raise ConfigError(
                "engine=stock shares what is done to the student with its teacher, which would be "
                "quantised too; leave engine as it is or quantization.format empty"
            )
        layout = self.teacher_layout
        if self.cache is not None:
            self.parallel.require_whole_sequences("a cached teacher")
        if self.engine == "stock":
            self.parallel.require_whole_sequences("engine=stock")
        if self.engine == "stock" and layout != self.parallel:
            raise ConfigError(
                "engine=stock splits the teacher as its student; leave teacher_parallel as it is"
            )

    @property
    def loss(self) -> LossConfig:
        """What is minimised; raises `ConfigError` for a setting out of its range."""
        return LossConfig(**{part.name: getattr(self, part.name) for part in fields(LossConfig)})

    @property
    def teacher_layout(self) -> ParallelConfig:
        """How the teacher is split; raises `ConfigError` where the processes do not go into it."""
        tensor = self.teacher_parallel.tensor or self.parallel.tensor
        pipeline = self.teacher_parallel.pipeline or self.parallel.pipeline
        if (tensor, pipeline) == (self.parallel.tensor, self.parallel.pipeline):
            return self.parallel
        self.parallel.require_whole_sequences("a teacher in a layout of its own")
        replicas, rest = divmod(self.parallel.processes, tensor * pipeline)
        if rest:
            raise ConfigError(
                f"teacher_parallel.tensor × pipeline is {tensor * pipeline}; it must divide the "
                f"{self.parallel.processes} processes of parallel.tensor × pipeline × data"
            )
        sequence = self.parallel.sequence and tensor > 1
        return ParallelConfig(tensor=tensor, pipeline=pipeline, data=replicas, sequence=sequence)


def check_pair(student: Checkpoint, teacher: Checkpoint) -> None:
    """Raise `CheckpointError` unless both speak the same tokens."""
    from nemo_bielik.data.tokenizer import same_tokenizer

    if student.arch.vocab_size != teacher.arch.vocab_size:
        raise CheckpointError(
            f"{student.directory}: vocabulary of {student.arch.vocab_size}, but its teacher "
            f"{teacher.directory} has {teacher.arch.vocab_size}; distil between models that "
            "share a tokenizer"
        )
    same_tokenizer(student.directory, teacher.directory)


def recipe(config: DistillConfig) -> Manifest:
    """Check what a distillation starts from and return its manifest, without the engine."""
    return prepare("distill", config, _check_teacher(config))


def distill(config: DistillConfig) -> None:
    """Distil the teacher into `config.model` and export the result as `config.output`."""
    manifest = recipe(config)
    if is_done(config.output, manifest):
        return

    from nemo_bielik.megatron.engine import run_training
    from nemo_bielik.megatron.objectives import Distillation, Objective, StockDistillation

    objective: Objective
    if config.engine == "stock":
        objective = StockDistillation(_teacher(config), config.temperature)
    else:
        objective = Distillation(_teacher_source(config), config.loss)
    run_training(config, objective, manifest)


def _teacher_source(config: DistillConfig) -> "TeacherSource":
    """Return where the teacher's distribution comes from."""
    from nemo_bielik.megatron.teacher import LiveTeacher
    from nemo_bielik.megatron.teacher_ahead import AheadTeacher
    from nemo_bielik.megatron.teacher_cache import CachedTeacher

    if config.cache is not None:
        return CachedTeacher(config.cache, config.temperature)
    precision = None if config.teacher_precision == "student" else config.teacher_precision
    if config.teacher_layout != config.parallel:
        return AheadTeacher(_teacher(config), config.teacher_layout, precision)
    return LiveTeacher(_teacher(config), precision)


def _check_teacher(config: DistillConfig) -> dict[str, str]:
    """Return the identity of the teacher or its cache; raise `BielikError` if it does not serve."""
    from nemo_bielik.data.tokenizer import same_tokenizer

    student = Checkpoint.open(config.model)
    if config.cache is not None:
        cache = TeacherCache(config.cache)
        cache.require(config.temperature, student.arch.vocab_size)
        same_tokenizer(student.directory, cache.directory)
        return {"cache": cache.manifest.recipe()}
    teacher = Checkpoint.open(_teacher(config))
    check_pair(student, teacher)
    check_layout(config.teacher_layout, config.longest_sequence, teacher, "teacher_parallel")
    return {"teacher": teacher.fingerprint()}


def _teacher(config: DistillConfig) -> Path:
    assert config.teacher is not None, "the configuration has one of teacher and cache"
    return config.teacher
