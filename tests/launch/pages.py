"""What the pages on places to launch show, and what the same commands print today.

``python tests/launch/pages.py`` writes today's output into the pages; a block in which a line ``…``
stands for lines that are left out is kept, and mended by hand where its test fails.
"""

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted((REPOSITORY / "docs" / "launch").glob("*.md"))
LEFT_OUT = "…"
SECRET = "hunter2"
#: A cluster that nobody answers for: dry runs ask nothing of it.
KUBE_CONFIG = """\
{apiVersion: v1, kind: Config, current-context: a,
 contexts: [{name: a, context: {cluster: a, user: a}}], users: [{name: a, user: {}}],
 clusters: [{name: a, cluster: {server: "https://cluster.invalid"}}]}
"""
_DRY_RUN = re.compile(r"```\n(bielik [^`]*? --dry-run)\n```\n(?:\n[^`]*)?\n```\n(.*?)\n```", re.S)
_SITES = re.compile(r"```toml\n(.*?)\n```", re.S)
#: What differs from run to run: an experiment's number, and those that NeMo-Run draws.
_DRAWN = (
    (re.compile(r"(?<=[-_])\d{19}\b"), "1795452318512186237"),
    (re.compile(r"^(id: distill-)\w+$", re.M), r"\1s3790v4skvg4jc"),
    (re.compile(r"^(  - --rdzv-id\n  - )'\d+'$", re.M), r"\1'681'"),
    (re.compile(r"(--rdzv-id) \d+"), r"\1 681"),
)


@dataclass(frozen=True)
class Shown:
    """A command of a page and what the page shows of its output."""

    words: list[str]
    output: str


def shown_on(page: Path) -> Iterator[Shown]:
    """Yield the dry runs of a page."""
    for command, output in _DRY_RUN.findall(page.read_text(encoding="utf-8")):
        yield Shown(shlex.split(command.replace("\\\n", " "))[1:], output)


def site_file(page: Path, folder: Path) -> Path:
    """Write the sites that a page describes, as one file."""
    path = folder / f"{page.stem}.toml"
    path.write_text("\n\n".join(_SITES.findall(page.read_text("utf-8"))), encoding="utf-8")
    return path


def today(page: Path, words: list[str], folder: Path) -> str:
    """Return what a page's command prints now, as the page would have it; nothing else is asked.

    Args:
        folder: an existing empty directory to run it in.
    """
    from kubernetes.config import kube_config

    from nemo_bielik import cli

    here, home = folder / "here", folder / "home"
    here.mkdir()
    (folder / "kube").write_text(KUBE_CONFIG)
    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = str(folder / "kube")  # $KUBECONFIG, read at import
    os.environ |= {"NEMORUN_HOME": str(home), "DGX_CLIENT_SECRET": SECRET, "LOGNAME": "anna"}
    with contextlib.chdir(here), contextlib.redirect_stdout(io.StringIO()) as said:
        status = cli.main([*words, f"--site={site_file(page, folder)}"])
    assert status == 0, page
    return as_on_pages(said.getvalue(), here, home)


def as_on_pages(text: str, here: Path, home: Path) -> str:
    """Return an output with a reader's paths, and the same numbers as every other.

    Args:
        here: where the command was run.
        home: NeMo-Run's directory.
    """
    places = {Path(sys.executable).parent: "~/nemo-bielik/.venv/bin", home: "~/.nemo_run"}
    places |= {REPOSITORY: "~/nemo-bielik", here: "~/nemo-bielik"}
    for path, name in places.items():
        text = text.replace(str(path), name)
    for pattern, number in _DRAWN:
        text = pattern.sub(number, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def holds(output: str, shown: str) -> bool:
    """Whether `output` is what is shown, but for what is left out there."""
    parts = re.split(rf"^ *{LEFT_OUT}$", shown, flags=re.M)
    pattern = r"(?:.*\n)*".join(
        re.escape(part.strip("\n") + "\n") for part in parts if part.strip()
    )
    ends = r"(?:.*\n)*" if not parts[-1].strip() else ""
    starts = r"(?:.*\n)*" if not parts[0].strip() else ""
    return re.fullmatch(starts + pattern + ends, output + "\n") is not None


def renew(page: Path) -> None:
    """Write today's outputs into a page, in the place of those that leave nothing out."""
    text = page.read_text(encoding="utf-8")
    for shown in shown_on(page):
        if LEFT_OUT not in shown.output:
            with tempfile.TemporaryDirectory() as folder:
                text = text.replace(shown.output, today(page, shown.words, Path(folder)))
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for page in PAGES:
        renew(page)
