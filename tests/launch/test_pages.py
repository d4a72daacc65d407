"""The pages on places to launch show the settings that today's dry run prints."""

import re
import shlex
from pathlib import Path

import pytest

from nemo_bielik import cli

PAGES = sorted((Path(__file__).parents[2] / "docs" / "launch").glob("*.md"))
_DRY_RUN = re.compile(
    r"```\n(bielik distill (?:[^`]|\n)*? --dry-run)\n```\n\n```\n(.*?)\n\n# ", re.S
)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_settings_on_the_page_are_those_of_today(page, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = _DRY_RUN.search(page.read_text(encoding="utf-8"))
    assert found is not None
    words = shlex.split(found[1].replace("\\\n", " "))[1:]
    place = words.index("--executor")
    del words[place : place + 2]  # sites are the reader's own; settings are the same anywhere
    words = [word for word in words if not word.startswith(("--job-name", "executor."))]
    assert cli.main(words) == 0
    assert found[2] == capsys.readouterr().out.rstrip()
