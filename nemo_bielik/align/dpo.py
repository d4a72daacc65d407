"""The preference stage: a fine-tuned model and pairs of answers in, an aligned model out."""

import math
from dataclasses import dataclass, field
from pathlib import Path

from nemo_bielik.align.preflight import Preflight, pairs_report
from nemo_bielik.align.reference import ReferenceConfig, ReferenceLogProbs
from nemo_bielik.align.reference import prepare as prepare_reference
from nemo_bielik.align.settings import AlignConfig, AlignSettings
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.sources import data_directories
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.stages import is_done
from nemo_bielik.training import OptimConfig, prepare


@dataclass(kw_only=True)
class DpoSettings(AlignSettings):
    """How to learn preferences; the report leaves β, λ and the rates blank: these are ours."""

    beta: float = field(
        default=0.3, metadata={"help": "how much a nat of difference to the reference counts"}
    )
    positive_weight: float = field(
        default=50.0,
        metadata={"help": "λ: what a nat costs that the chosen answer loses; 0: plain DPO"},
    )
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(max_lr=5e-7, min_lr=5e-8, weight_decay=0.0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < math.inf:
            raise ConfigError(f"beta is {self.beta}; it must be finite and above 0")
        if not 0 <= self.positive_weight < math.inf:
            raise ConfigError(
                f"positive_weight is {self.positive_weight}; it must be finite and 0 (plain DPO) "
                "or more"
            )


@dataclass(kw_only=True)
class DpoConfig(DpoSettings, AlignConfig):
    """Train `model` to prefer the chosen answers, by DPO-Positive; `positive_weight=0` is DPO.

    The reference is the model itself as it was, unless told otherwise. The report leaves β, λ and
    the rates blank: the defaults are ours.
    """

    reference: Path | None = field(
        default=None,
        metadata={
            "help": "what `bielik reference` made (default: made first, beside the output as "
            "OUTPUT-reference, and used again by runs with other settings)"
        },
    )

    other_reference: bool = field(
        default=False,
        metadata={"help": "the reference is another model's on purpose, as in a second round"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.other_reference and self.reference is None:
            raise ConfigError("other_reference=true needs reference; give both or neither")

    @property
    def reference_directory(self) -> Path:
        """Where the reference's log-probabilities are, or will be."""
        return self.reference or self.output.with_name(f"{self.output.name}-reference")

    def reference_settings(self) -> ReferenceConfig:
        """Return the settings that make the reference's log-probabilities on the run's ranks."""
        return ReferenceConfig(
            model=self.model,
            data=list(data_directories(self).values()),
            output=self.reference_directory,
            sequence_length=self.sequence_length,
            micro_batch_size=self.micro_batch_size,
            precision=self.precision,
            parallel=self.parallel,
        )


def dpo(config: DpoConfig) -> None:
    """Train `config.model` on pairs of answers and export it as `config.output`."""
    manifest = prepare("dpo", config, {"reference": _reference_identity(config)}, pairs=True)
    if is_done(config.output, manifest):
        return
    found = preflight(config)
    found.say()

    from nemo_bielik.megatron.engine import run_training
    from nemo_bielik.megatron.preferences import Preferences

    settings = config.reference_settings() if config.reference is None else None
    objective = Preferences(
        config.reference_directory, settings, config.beta, config.positive_weight
    )
    run_training(config, objective, manifest, notes=found.notes(), complete=found.complete)


def preflight(config: DpoConfig) -> Preflight:
    """Look at the pairs before anything runs; raise `DataError` for what should stop it."""
    return Preflight.of(config, pairs_report)


def describe(config: DpoConfig) -> list[str]:
    """Return the lines that ``bielik dpo --dry-run`` adds."""
    _reference_identity(config)
    return preflight(config).lines()


def _reference_identity(config: DpoConfig) -> str:
    """Return the identity of the reference.

    Raises `DataError` if it was made of other pairs, or by another model without being told so.
    """
    if config.reference is None:
        return prepare_reference(config.reference_settings()).recipe()
    store = ReferenceLogProbs(config.reference)
    store.require(data_directories(config), config.sequence_length)
    made_by = store.manifest.inputs["model"]
    if not config.other_reference and made_by != Checkpoint.open(config.model).fingerprint():
        raise DataError(
            f"{config.reference}: was not made by {config.model}, which is trained; leave "
            "reference out, or set other_reference=true if another model is meant"
        )
    return store.manifest.recipe()
