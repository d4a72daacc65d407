"""The fine-tuning stage: a base model and conversations in, an assistant out."""

from dataclasses import dataclass, field
from pathlib import Path

from nemo_bielik.align.preflight import Preflight, conversations_report
from nemo_bielik.align.settings import AlignConfig, AlignSettings
from nemo_bielik.data.sources import data_fingerprints
from nemo_bielik.stages import is_done
from nemo_bielik.training import OptimConfig, prepare


@dataclass(kw_only=True)
class SftSettings(AlignSettings):
    """How to fine-tune; the rates are ours."""

    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(max_lr=2e-5, min_lr=2e-6, weight_decay=0.0)
    )


@dataclass(kw_only=True)
class SftConfig(SftSettings, AlignConfig):
    """Train `model` on what the assistant says in conversations; examples count by their weight.

    Epochs and the sequence length are the report's; it leaves the rates blank, they are ours.
    """

    tokenizer: Path | None = field(
        default=None,
        metadata={
            "help": "directory whose chat template the conversations were written with, and which "
            "the assistant gets (default: the model's own)"
        },
    )


def sft(config: SftConfig) -> None:
    """Fine-tune `config.model` on conversations and export it as `config.output`."""
    found = preflight(config)
    template = {"chat_template": found.tokenizer.template_fingerprint}
    manifest = prepare("sft", config, template)
    if is_done(config.output, manifest):
        return
    found.say()

    from nemo_bielik.megatron.engine import run_training
    from nemo_bielik.megatron.supervised import Supervised

    run_training(config, Supervised(), manifest, notes=found.notes(), complete=found.complete)


def preflight(config: SftConfig) -> Preflight:
    """Look at the conversations before anything runs; raise `DataError` for what should stop it."""
    return Preflight.of(config, conversations_report)


def describe(config: SftConfig) -> list[str]:
    """Return the lines that ``bielik sft --dry-run`` adds."""
    data_fingerprints(config)
    return preflight(config).lines()
