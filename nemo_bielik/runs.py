"""Where a run of the whole chain keeps its artifacts: one directory, the same names everywhere."""

from dataclasses import dataclass
from pathlib import Path

#: The models of a run in the order of their making; a control or a seed appends to the name.
TEACHER, PRUNED, DISTILLED = "teacher", "pruned", "distilled"
#: What alignment makes of the last of them.
FINE_TUNED, ALIGNED, REWARDED = "fine-tuned", "aligned", "aligned-grpo"
#: The tokens that it learns from.
INSTRUCTIONS, PREFERENCES = "instructions", "preferences"
LABEL_TRAINED, FROM_SCRATCH = "label_trained", "from_scratch"


@dataclass(frozen=True)
class Run:
    """Paths under `root`; nothing is created here."""

    root: Path

    def model(self, name: str) -> Path:
        """Model directory, e.g. ``models/teacher`` or ``models/distilled-seed2``."""
        return self.root / "models" / name

    def tokens(self, split: str) -> Path:
        """Directory of tokens: ``train``, ``validation``, ``calibration`` or ``recovery``."""
        return self.root / "tokens" / split

    def evaluation(self, name: str) -> Path:
        """Evaluation of the model called `name`; holds ``results.json``."""
        return self.root / "evaluations" / name

    @property
    def world(self) -> Path:
        """The built-in corpus and its evaluation sets."""
        return self.root / "world"

    def text(self, split: str) -> Path:
        """Documents of one split, or an evaluation set of the built-in corpus, as JSON lines."""
        return self.world / f"{split}.jsonl"

    @property
    def tokenizer(self) -> Path:
        """Tokenizer trained on the corpus."""
        return self.root / "tokenizer"

    @property
    def scores(self) -> Path:
        """Score table of the teacher."""
        return self.root / "scores"

    @property
    def summary(self) -> Path:
        """Every figure of the run, for machines."""
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        """The page that shows the run."""
        return self.root / "report.html"
