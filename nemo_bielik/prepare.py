"""The text and the tokens that a run of the chain starts from."""

from dataclasses import dataclass, field
from pathlib import Path

from nemo_bielik.data.split import (
    WITH_GIVEN_TEACHER,
    WITH_TEACHER_TRAINING,
    SplitConfig,
    split_documents,
)
from nemo_bielik.data.tiny_polish.stage import MakeWorldConfig, make_world
from nemo_bielik.data.tiny_polish.world import WorldConfig
from nemo_bielik.data.tokenize import TokenizeConfig, tokenize
from nemo_bielik.data.tokenizer import TokenizerConfig, train_tokenizer
from nemo_bielik.errors import ConfigError
from nemo_bielik.recipes import tiny
from nemo_bielik.runs import Run

_SPLITS = ("validation", "calibration", "recovery", "test")


@dataclass(kw_only=True)
class PrepareConfig:
    """Split text into the parts of a run and tokenise them."""

    output: Path = field(metadata={"help": "directory of the run"})
    model: Path | None = field(
        default=None,
        metadata={"help": "your model directory; without it a teacher is trained"},
    )
    texts: list[Path] = field(
        default_factory=list, metadata={"help": "your texts; without them the built-in world"}
    )
    vocab_size: int = field(
        default=tiny.VOCAB_SIZE, metadata={"help": "of a trained teacher's tokenizer"}
    )
    world: WorldConfig = field(default_factory=tiny.world)

    def __post_init__(self) -> None:
        if self.model is not None and not self.texts:
            raise ConfigError("model needs texts: give the text to score and distil it on")


def prepare(config: PrepareConfig) -> None:
    """Write ``world``, ``tokens`` and, for a teacher to train, ``tokenizer`` in `config.output`."""
    prepare_text(config)
    prepare_tokens(config)


def prepare_text(config: PrepareConfig) -> None:
    """Make the splits of the text: the built-in world, or the user's documents."""
    world = Run(config.output).world
    if not config.texts:
        make_world(MakeWorldConfig(output=world, **vars(config.world)))
        return
    shares = WITH_TEACHER_TRAINING if config.model is None else WITH_GIVEN_TEACHER
    split_documents(SplitConfig(inputs=config.texts, output=world, shares=dict(shares)))


def prepare_tokens(config: PrepareConfig) -> None:
    """Train a tokenizer where the model brings none, and tokenise every split."""
    run = Run(config.output)
    if config.model is None:
        train_tokenizer(
            TokenizerConfig(
                inputs=[run.text("train")], output=run.tokenizer, vocab_size=config.vocab_size
            )
        )
    for split in _SPLITS if config.model else (*_SPLITS, "train"):
        tokenize(
            TokenizeConfig(
                inputs=[run.text(split)],
                tokenizer=config.model or run.tokenizer,
                output=run.tokens(split),
            )
        )
