"""The pages on places to launch show what today's dry runs print: settings, jobs, scripts."""

import importlib.util

import pytest
from pages import LEFT_OUT, PAGES, SECRET, holds, shown_on, today

from nemo_bielik.known_layouts import _of_recipes

DRY_RUNS = [(page, shown) for page in PAGES for shown in shown_on(page)]


@pytest.mark.parametrize(
    ("page", "shown"), DRY_RUNS, ids=[f"{page.stem}-{shown.words[-2]}" for page, shown in DRY_RUNS]
)
def test_a_page_shows_the_dry_run_of_today(page, shown, monkeypatch, tmp_path):
    if "sky" in shown.words and importlib.util.find_spec("sky") is None:
        pytest.skip("SkyPilot wants an environment of its own: docs/launch/others.md")
    for name in ("NEMORUN_HOME", "DGX_CLIENT_SECRET", "LOGNAME"):
        monkeypatch.setenv(name, "")  # given back after the test
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", "")
    monkeypatch.chdir(tmp_path)  # where nobody has run the demo, whose models would be known
    _of_recipes.cache_clear()
    output = today(page, shown.words, tmp_path)
    assert SECRET not in output
    if LEFT_OUT in shown.output:
        assert holds(output, shown.output), output
    else:
        assert output == shown.output


def test_every_place_has_a_dry_run_on_its_page():
    assert {page.stem for page, _ in DRY_RUNS} == {page.stem for page in PAGES}


@pytest.mark.parametrize(
    ("shown", "holds_it"),
    [("a\nb\nc", True), ("a\n…\nc", True), ("…\nc", True), ("a\n…", True), ("a\nc", False)],
)
def test_what_is_left_out_may_be_anything_and_the_rest_may_not(shown, holds_it):
    assert holds("a\nb\nc", shown) is holds_it
    assert not holds("a\nb\nd", shown + "\nc")
