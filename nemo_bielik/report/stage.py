"""The report stage: a run directory in, one HTML page out."""

from dataclasses import dataclass, field
from pathlib import Path

from nemo_bielik.files import atomic_file
from nemo_bielik.report.gather import read_run
from nemo_bielik.report.page import render
from nemo_bielik.runs import Run


@dataclass(kw_only=True)
class ReportConfig:
    """Which run to show, and where."""

    run: Path = field(metadata={"help": "run directory made by `bielik demo` or `bielik pipeline`"})
    output: Path | None = field(
        default=None, metadata={"help": "page to write; default: report.html in the run directory"}
    )


def write_report(config: ReportConfig) -> None:
    """Write the page of `config.run`, replacing an older one.

    What the run lacks is left out of the page. Raises `DataError` for a directory that holds no
    run or a damaged artifact, and `StorageError` where the page cannot be written.
    """
    page = render(read_run(config.run))
    output = config.output or Run(config.run).report
    with atomic_file(output) as scratch:
        scratch.write_text(page, encoding="utf-8")
    print(f"{output}: {len(page.encode('utf-8')) / 1e3:.0f} kB")
