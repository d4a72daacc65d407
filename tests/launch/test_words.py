"""Words about launching, apart from a stage's own."""

from pathlib import Path

import pytest

from nemo_bielik.errors import ConfigError
from nemo_bielik.launch.words import LaunchWords, take_launch_words


def test_the_words_are_taken_wherever_they_stand():
    words = ["--model=m", "--executor", "cluster", "executor.time=1", "iters=3", "--site=a/b"]
    words += ["--factory", "tiny", "--job-name=night"]
    found = take_launch_words(words, "bielik train")
    assert words == ["--model=m", "iters=3"]
    assert found == LaunchWords(
        executor="cluster",
        site=Path("a/b"),
        factory="tiny",
        job_name="night",
        site_changes=["time=1"],
    )


def test_nothing_asked_is_nothing_taken():
    words = ["--model=m"]
    assert take_launch_words(words, "bielik train") == LaunchWords()
    assert words == ["--model=m"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--executor"], "--executor needs a value"),
        (["--executor", "--dry-run"], "--executor needs a value"),
        (["--job-name=x"], "--job-name needs --executor"),
        (["executor.time=1", "--site=x"], "--site, executor.… needs --executor"),
    ],
)
def test_half_a_wish_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        take_launch_words(words, "bielik train")
