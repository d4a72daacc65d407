"""``bielik recovery``: evaluations in, ``results.json``, a page and a model card out."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_bielik.bench.stage import RESULTS_NAME as BENCH_NAME
from nemo_bielik.bench.summary import summary
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.evaluate.bootstrap import Bootstrap
from nemo_bielik.evaluate.stage import ITEMS_NAME, RESULTS_NAME
from nemo_bielik.files import file_sha256, write_json
from nemo_bielik.quantize.stage import TABLE_NAME
from nemo_bielik.recovery.aggregation import Rules
from nemo_bielik.recovery.card import Told, render_card
from nemo_bielik.recovery.card_model import read_card_model
from nemo_bielik.recovery.gather import collect, measured_baselines, open_stages
from nemo_bielik.recovery.page import render, student_figures
from nemo_bielik.recovery.pairing import Stage
from nemo_bielik.recovery.quantized import read_quantized
from nemo_bielik.recovery.speed import check_models, speed_figure
from nemo_bielik.report.gather import read_object
from nemo_bielik.stages import describe, is_done, stage_output

PAGE_NAME, CARD_NAME = "recovery.html", "README.md"


@dataclass(kw_only=True)
class RecoveryConfig:
    """How much of its teacher each student keeps, with intervals; a page and a model card."""

    teacher: Path = field(metadata={"help": "evaluation of the teacher"})
    students: list[Path] = field(
        metadata={"help": "evaluations of the students, in the order of the stages"}
    )
    output: Path = field(metadata={"help": "directory to make"})
    labels: list[str] = field(
        default_factory=list,
        metadata={"help": "a name for each student; those of one name are repeats (seeds)"},
    )
    above_baseline: bool = field(
        default=False,
        metadata={"help": "lead with recovery above the baseline, not with the plain ratio"},
    )
    baselines: list[Path] = field(
        default_factory=list,
        metadata={"help": "evaluations whose best score is the baseline; else guessing is"},
    )
    mean_of_ratios: list[str] = field(
        default_factory=lambda: ["euroeval"],
        metadata={"help": "suites whose recovery is the mean of their rows' ratios"},
    )
    bench: Path | None = field(
        default=None, metadata={"help": "what `bielik bench` measured of teacher and student"}
    )
    quantized: Path | None = field(
        default=None, metadata={"help": "what `bielik quantize` made of the main student"}
    )
    resamples: int = field(default=2000, metadata={"help": "times that items are drawn anew"})
    confidence: float = field(default=0.95, metadata={"help": "share that an interval covers"})
    seed: int = field(default=1, metadata={"help": "decides what is drawn"})
    main: str = field(
        default="",
        metadata={"help": "label of the student that page and card are about; default: the last"},
    )
    card_model: Path | None = field(
        default=None,
        metadata={"help": "its model directory, if it is not where its evaluation says"},
    )
    name: str = field(default="", metadata={"help": "what the card calls the model"})
    license: str = field(default="", metadata={"help": "the card's license, such as apache-2.0"})
    base_model: str = field(
        default="", metadata={"help": "the teacher's name on the Hugging Face hub, for the card"}
    )
    languages: list[str] = field(
        default_factory=list, metadata={"help": "the model's languages, for the card, such as pl"}
    )

    def __post_init__(self) -> None:
        if not self.students:
            raise ConfigError("students is empty; give the evaluation of one student or more")
        for code in self.languages:
            if not re.fullmatch("[a-z]{2,3}", code):
                raise ConfigError(f"languages has {code!r}; it takes ISO 639 codes such as pl")
        self.bootstrap()

    def bootstrap(self) -> Bootstrap:
        """Return how items are drawn; raises `ConfigError` for what gives no interval."""
        return Bootstrap(self.resamples, self.confidence, self.seed)

    def rules(self) -> Rules:
        """Return how recoveries are made; reads the baselines."""
        return Rules(
            bootstrap=self.bootstrap(),
            mean_of_ratios=tuple(self.mean_of_ratios),
            baselines=measured_baselines(self.baselines),
        )


def recover(config: RecoveryConfig) -> None:
    """Write `config.output`: ``results.json``, ``recovery.html``, ``README.md``.

    What cannot be compared is named there with its reason, the rest is kept; if anything was
    refused, `DataError` says so when all is written. Raises it at once if nothing can be compared.
    """
    started = time.monotonic()
    rules = config.rules()
    teacher, students = open_stages(config.teacher, config.students, config.labels)
    speed = summary(config.bench) if config.bench else None
    student = _main_student(students, config.main)
    if speed:
        check_models(speed, teacher, student)
    quantized = read_quantized(config.quantized, student) if config.quantized else None
    manifest = describe("recovery", config, _inputs([teacher, *students], config))
    if not is_done(config.output, manifest):
        found = collect(teacher, students, rules, config.above_baseline, student.label)
        found["speed"], found["quantized"] = speed, quantized
        model = read_card_model(student, config.card_model, teacher)
        results = {"overall": [row for row in found["rows"] if row["level"] == "overall"]}
        with stage_output(config.output, manifest, results, started) as scratch:
            write_json(scratch / RESULTS_NAME, found)
            (scratch / PAGE_NAME).write_text(render(found), encoding="utf-8")
            told = Told(
                name=config.name,
                license=config.license,
                base_model=config.base_model,
                languages=config.languages,
            )
            card = render_card(found, student.label, model, told)
            (scratch / CARD_NAME).write_text(card, encoding="utf-8")
        for one in student_figures(found):
            print(f"{one.label:<16} keeps {one.text:<8} {one.remark}")
        for one in speed_figure(speed):
            print(f"{one.label}: {one.text}, {one.remark}")
        print(f"{config.output}: {RESULTS_NAME}, {PAGE_NAME}, {CARD_NAME}")
    _complain(config.output)


def _main_student(students: Sequence[Stage], label: str) -> Stage:
    if not label:
        return students[-1]
    known = {student.label: student for student in students}
    if label not in known:
        raise ConfigError(f"main is {label!r}; the students are {', '.join(known)}")
    return known[label]


def _inputs(stages: Sequence[Stage], config: RecoveryConfig) -> dict[str, str]:
    paths = [one.path for stage in stages for one in stage.evaluations] + config.baselines
    files = [path / name for path in paths for name in (RESULTS_NAME, ITEMS_NAME)]
    if config.bench:
        files.append(config.bench / BENCH_NAME)
    if config.quantized:
        files.append(config.quantized / TABLE_NAME)
    return {str(path): file_sha256(path) for path in files if path.is_file()}


def _complain(output: Path) -> None:
    """Raise `DataError` in one line if something in `output` was refused."""
    refused: list[dict[str, Any]] = read_object(output / RESULTS_NAME)["refused"]
    if not refused:
        return
    first = refused[0]
    where = ", task ".join(filter(None, (first["suite"], first["task"])))
    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    raise DataError(
        f"{first['model']}: suite {where}: {first['reason']}{more}; the rest is in {output}"
    )
