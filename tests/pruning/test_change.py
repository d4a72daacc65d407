"""What a prune run decides before it reads a weight."""

import pytest

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.pruning.change import edit_change, plan_change, summary
from nemo_bielik.pruning.prune import PruneConfig


@pytest.fixture
def source(make_model):
    return Checkpoint.open(make_model())


@pytest.fixture
def settings(source, random_scores, tmp_path):
    """Return a function from settings to a `PruneConfig` whose scores are of `source`."""
    random_scores(source.arch, source.fingerprint()).save(tmp_path / "scores.safetensors")

    def make(**changes):
        paths = {"model": source.directory, "output": tmp_path / "out", "scores": tmp_path}
        return PruneConfig(**(paths | changes))

    return make


def test_shortgpt_drops_layers_as_minitron_does_and_nothing_else(source, settings):
    by_method = {
        method: plan_change(settings(method=method, num_layers=2), source)
        for method in ("shortgpt", "minitron")
    }
    assert by_method["shortgpt"] == by_method["minitron"]
    with pytest.raises(ConfigError, match="shortgpt removes layers and cannot bring hidden_size"):
        plan_change(settings(method="shortgpt", hidden_size=16), source)


def test_a_method_without_its_statistics_says_how_to_make_them(source, settings, tmp_path):
    (tmp_path / "scores.safetensors").unlink()
    with pytest.raises(DataError, match="make one with"):
        plan_change(settings(num_layers=2), source)


def test_an_edit_names_the_share_of_zeros(source, settings):
    edit = edit_change(settings(method="magnitude", pattern="2:4", scores=None), source, "")
    assert (edit.sparsity, edit.pattern, edit.scores) == (0.5, "2:4", "")
    assert edit.source_model == source.fingerprint()
    assert "50.0%" in summary(edit)[0]
