"""Every contender at the parameters of the target, counted here by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_bielik.arch import ModelArch
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.compare.contenders import DEFAULT, contender, nearest_depth
from nemo_bielik.compare.measure import count_zeros
from nemo_bielik.errors import ConfigError
from nemo_bielik.pruning.prune import prune
from nemo_bielik.pruning.sparsity import Sparsity

Archs = tuple[ModelArch, ModelArch]


def projections(arch: ModelArch) -> int:
    """Return the weights of q, k, v, o, gate, up and down of all layers."""
    queries = arch.num_attention_heads * arch.head_dim
    keys = arch.num_query_groups * arch.head_dim
    layer = arch.hidden_size * (2 * queries + 2 * keys + 3 * arch.ffn_hidden_size)
    return arch.num_layers * layer


def parameters(arch: ModelArch) -> int:
    """Return all of an untied model: two embeddings, two norms a layer and a last one."""
    norms = (2 * arch.num_layers + 1) * arch.hidden_size
    return 2 * arch.vocab_size * arch.hidden_size + norms + projections(arch)


@pytest.mark.parametrize("name", ["magnitude", "wanda", "sparsegpt"])
def test_zeros_leave_as_many_weights_as_the_target_has(archs: Archs, name: str) -> None:
    source, target = archs
    found = contender(name, source, target)
    scores = Path("s") if found.method.statistics else None
    config = found.prune_config(Path("m"), scores, Path("o"))
    zeros = Sparsity.parse(config.sparsity, config.pattern).ratio * projections(source)
    assert parameters(source) - zeros == pytest.approx(parameters(target), abs=1e-3)


def test_a_pruned_contender_has_the_targets_weights(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Each of 28 projections rounds its own share, so half a weight of each may be off."""
    model = make_model(seed=2)
    source = Checkpoint.open(model).arch
    target = source.replace(num_layers=3, ffn_hidden_size=17)
    prune(contender("magnitude", source, target).prune_config(model, None, tmp_path / "thin"))
    zeros = count_zeros(Checkpoint.open(tmp_path / "thin"))
    assert abs(parameters(source) - zeros - parameters(target)) <= 28 / 2
    prune(contender("magnitude@2:4", source, target).prune_config(model, None, tmp_path / "half"))
    assert count_zeros(Checkpoint.open(tmp_path / "half")) == projections(source) / 2


@pytest.mark.parametrize("ffn", [4, 64, 130, 192, 260, 320])
def test_shortgpt_takes_the_nearest_depth(archs: Archs, ffn: int) -> None:
    source, _ = archs
    target = source.replace(num_layers=5, ffn_hidden_size=ffn)
    depth = contender("shortgpt", source, target).cut["num_layers"]
    misses = {
        layers: abs(parameters(source.replace(num_layers=layers)) - parameters(target))
        for layers in range(1, source.num_layers + 1)
    }
    assert misses[depth] == min(misses.values())


def test_the_depth_of_a_shallower_model_is_its_own(archs: Archs) -> None:
    source, _ = archs
    for layers in range(1, 7):
        assert nearest_depth(source, source.replace(num_layers=layers)) == layers


@pytest.mark.parametrize("name", ["minitron", "llm-pruner", "sheared-llama"])
def test_structured_methods_cut_to_the_target_itself(archs: Archs, name: str) -> None:
    source, target = archs
    config = contender(name, source, target).prune_config(Path("m"), Path("s"), Path("o"))
    assert source.replace(name="target", **config.sizes()) == target


@pytest.mark.parametrize(("pattern", "zeros"), [("2:4", 0.5), ("4:8", 0.5), ("1:4", 0.75)])
def test_a_pattern_has_a_size_of_its_own(archs: Archs, pattern: str, zeros: float) -> None:
    row = contender(f"wanda@{pattern}", *archs)
    config = row.prune_config(Path("m"), Path("s"), Path("o"))
    assert (config.pattern, config.sparsity) == (pattern, None)
    assert Sparsity.parse(config.sparsity, config.pattern).ratio == zeros
    assert row.label == row.cut_label == f"wanda-{pattern.replace(':', 'of')}"


def test_adapters_share_the_cut_and_not_the_recovery(archs: Archs) -> None:
    plain, lora = (contender(name, *archs) for name in ("llm-pruner", "llm-pruner@lora"))
    assert lora.cut == plain.cut
    assert (plain.cut_label, lora.cut_label) == ("llm-pruner", "llm-pruner")
    assert (plain.label, lora.label) == ("llm-pruner", "llm-pruner-lora")


def test_the_default_contenders_have_directories_of_their_own(archs: Archs) -> None:
    labels = [contender(name, *archs).label for name in DEFAULT]
    assert len(set(labels)) == len(labels)
    assert not any(character in label for label in labels for character in "@:/")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("wandaa", {}, "wanda"),
        ("minitron@2:4", {}, "@lora"),
        ("magnitude", {"hidden_size": 4}, "larger target"),
        ("magnitude", {"num_layers": 6, "ffn_hidden_size": 320}, "larger target"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    archs: Archs, name: str, changes: dict[str, int], words: str
) -> None:
    source, target = archs
    with pytest.raises(ConfigError, match=words) as error:
        contender(name, source, target.replace(**changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["magnitude@lora", "magnitude@4:2", "magnitude@half"])
def test_an_impossible_pattern_is_one_line(archs: Archs, name: str) -> None:
    with pytest.raises(ConfigError, match=name.partition("@")[2]) as error:
        contender(name, *archs).prune_config(Path("m"), None, Path("o"))
    assert "\n" not in str(error.value)
