import pytest

from nemo_bielik.arch import EXPERIMENTS
from nemo_bielik.errors import ConfigError
from nemo_bielik.nemo2.settings import Nemo2Prune


def test_a_cut_names_what_differs():
    cut = Nemo2Prune(target="bielik-minitron-7b")
    assert cut.sizes() == {"num_layers": 40, "ffn_hidden_size": 11264}


def test_what_nemos_pruning_would_ignore_is_refused():
    """EXP_007's hidden size is 14.25 × 256."""
    with pytest.raises(ConfigError, match=r"hidden_size is 3648, .* no multiple of 256; .*bielik"):
        Nemo2Prune(target="exp-007")
    for name in EXPERIMENTS.keys() - {"exp-007"}:
        Nemo2Prune(target=name)


@pytest.mark.parametrize(
    "target", ["bielik-11b-v3", "tiny-bielik-minitron-7b"], ids=["the same", "another vocabulary"]
)
def test_what_is_no_cut_is_refused(target):
    with pytest.raises(ConfigError, match=f"{target} is no cut of bielik-11b-v3"):
        Nemo2Prune(target=target)


def test_growing_is_refused():
    with pytest.raises(ConfigError, match="no cut of exp-008"):
        Nemo2Prune(source="exp-008", target="exp-004")


@pytest.mark.parametrize("name", ["samples", "sequence_length"])
def test_sizes_of_the_calibration_are_checked(name):
    with pytest.raises(ConfigError, match=f"{name} is 0; it must be at least 1"):
        Nemo2Prune(target="exp-010", **{name: 0})
