"""Settings of the loss are checked where they are made."""

import pytest

from nemo_bielik.distill.divergences import DIVERGENCES
from nemo_bielik.distill.loss_config import LossConfig
from nemo_bielik.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("divergence", "kl", "allowed are forward-kl, reverse-kl, jensen-shannon"),
        ("temperature", 0.0, "must be above 0"),
        ("temperature", float("inf"), "must be above 0"),
        ("beta", 1.0, "between 0 and 1"),
        ("label_weight", 1.5, "must be 0 to 1"),
    ],
)
def test_a_bad_setting_is_one_line(name, value, words):
    with pytest.raises(ConfigError, match=f"^{name} is {value!r}.*{words}") as caught:
        LossConfig(**{name: value})
    assert "\n" not in str(caught.value)


def test_every_name_of_the_table_is_a_setting():
    assert [LossConfig(divergence=name).divergence for name in DIVERGENCES] == list(DIVERGENCES)
    with pytest.raises(ConfigError, match=", ".join(DIVERGENCES)):
        LossConfig(divergence="none")
