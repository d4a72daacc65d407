"""A model without some layers is the model rebuilt without them; ways choose as brute force."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity
from transformers import AutoModelForCausalLM

from nemo_bielik.artifacts import PruningPlan
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.tokenizer import TextTokenizer
from nemo_bielik.errors import CheckpointError
from nemo_bielik.evaluate.choices import Choice, accuracy, score_choices
from nemo_bielik.evaluate.language_model import LanguageModel
from nemo_bielik.pruning.depth.samples import Sample
from nemo_bielik.pruning.depth.trials import Trials, without_layers
from nemo_bielik.pruning.depth.ways import WAYS
from nemo_bielik.pruning.select import keep_everything
from nemo_bielik.pruning.slice import apply_plan

LAYERS, MOST, LENGTH = 4, 3, 24
SETS = [list(some) for n in (1, 2, 3) for some in itertools.combinations(range(LAYERS), n)]


def plan_without(checkpoint: Checkpoint, dropped: list[int]) -> PruningPlan:
    whole = keep_everything(checkpoint.arch)
    left = [layer for layer in whole.layers if layer not in dropped]
    target = checkpoint.arch.replace(num_layers=len(left))
    each = {name: getattr(whole, name)[: len(left)] for name in ("ffn", "groups", "heads")}
    return PruningPlan(source=whole.source, target=target, layers=left, hidden=whole.hidden, **each)


@pytest.fixture(scope="module", params=["mistral", "llama"])
def family_model(request, make_model):
    return make_model(request.param, seed=3)


@pytest.fixture(scope="module")
def rebuilt(family_model, tmp_path_factory):
    """Return, for every set of layers, a directory that was written without them."""
    checkpoint = Checkpoint.open(family_model)
    directories = {}
    for dropped in SETS:
        directory = tmp_path_factory.mktemp("without")
        apply_plan(checkpoint, plan_without(checkpoint, dropped), directory)
        directories[tuple(dropped)] = LanguageModel.open(Checkpoint.open(directory), 96)
    return directories


@pytest.fixture(scope="module")
def random_windows():
    generator = np.random.default_rng(5)
    return [generator.integers(0, 40, size).tolist() for size in (2, 24, 9, 17, 24, 5)]


def trials_of(directory, sample, tokenizer=None) -> tuple[Trials, list[int]]:
    """Return trials and a list that grows by one with every pass."""
    passes: list[int] = []
    model = LanguageModel.open(Checkpoint.open(directory), 96)
    return Trials(model, tokenizer, sample, LENGTH, lambda: passes.append(1)), passes


def residual_streams(directory, dropped, windows):
    """Yield [p, h] of every position that predicts, in plain transformers, a window at a time."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
    model.model.norm = torch.nn.Identity()  # else the last state is the norm's output
    layers = model.model.layers
    model.model.layers = torch.nn.ModuleList(
        layer for number, layer in enumerate(layers) if number not in dropped
    )
    for window in windows:
        with torch.no_grad():
            output = model.model(torch.tensor([window[:-1]]), output_hidden_states=True)
        yield from torch.stack(output.hidden_states, dim=2)[0]


def test_left_out_layers_are_as_good_as_removed(family_model, rebuilt, random_windows):
    groups = [[window] for window in random_windows]
    model = LanguageModel.open(Checkpoint.open(family_model), 96)
    whole = model.log_probs(groups)
    for dropped in SETS:
        with without_layers(model, dropped) as left:
            found = model.log_probs(groups)
        assert sorted(left + dropped) == list(range(LAYERS)) and left == sorted(left)
        np.testing.assert_allclose(found, rebuilt[tuple(dropped)].log_probs(groups), rtol=1e-6)
        assert not np.allclose(found, whole, rtol=1e-3)
    assert model.log_probs(groups) == whole


def test_layers_come_back_after_an_error(family_model):
    model = LanguageModel.open(Checkpoint.open(family_model), 96)
    before = model.model.model.layers
    with pytest.raises(KeyboardInterrupt), without_layers(model, [0, 2]):
        raise KeyboardInterrupt
    assert model.model.model.layers is before and len(before) == LAYERS
    assert not any(module._forward_pre_hooks for module in model.model.modules())


@pytest.mark.parametrize("dropped", [[], [2], [0, 3]])
def test_similarity_is_that_of_the_hidden_states(family_model, random_windows, dropped):
    trials, _ = trials_of(family_model, Sample(random_windows, {}))
    similarity = trials.similarity(dropped)
    streams = torch.stack(list(residual_streams(family_model, dropped, random_windows)))
    assert len(streams) == sum(len(window) - 1 for window in random_windows)
    cosine = cosine_similarity(streams.unsqueeze(2), streams.unsqueeze(1), dim=-1)
    np.testing.assert_allclose(similarity.cosine, cosine.mean(0), atol=1e-6)
    angles = np.arccos(cosine.numpy().clip(-1, 1)).mean(0) / np.pi
    np.testing.assert_allclose(similarity.angle, angles, atol=1e-6)
    steps = torch.stack([1 - cosine_similarity(a, b, dim=0) for a, b in _steps(streams)])
    expected = steps.view(len(streams), -1).mean(0)
    np.testing.assert_allclose(similarity.block_influence(), expected, atol=1e-6)


def _steps(streams):
    return [pair for position in streams for pair in itertools.pairwise(position)]


def test_damaged_weights_are_refused(make_model, edit_weights, random_windows):
    directory = make_model(seed=4)
    with edit_weights(directory) as weights:
        weights["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    trials, _ = trials_of(directory, Sample(random_windows, {}))
    with pytest.raises(CheckpointError, match="hidden states that are not numbers"):
        trials.similarity()


@pytest.fixture(scope="module")
def own_taste(make_model, edit_weights, tokenizer_directory):
    """A model whose layer 2 does nothing, text that it wrote, and items as it would answer them.

    On its own text no other model can be expected to do better, and it answers every item.
    """
    directory = make_model(seed=11)
    with edit_weights(directory) as weights:
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            weights[f"model.layers.2.{name}.weight"].zero_()
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(2)
    text = torch.randint(3, 40, (32, 1), generator=generator)
    for _ in range(LENGTH - 1):
        with torch.no_grad():
            chances = model(text).logits[:, -1].softmax(-1)
        text = torch.cat([text, torch.multinomial(chances, 1, generator=generator)], dim=1)
    tokenizer = TextTokenizer.open(tokenizer_directory)
    words = np.random.default_rng(8).integers(0, 37, (60, 2, 5))
    sentences = [[" ".join(f"słowo{n}" for n in sentence) for sentence in two] for two in words]
    pairs = [Choice("", "kind", tuple(two), ("a", "b"), right=0) for two in sentences]
    scores = score_choices(LanguageModel.open(Checkpoint.open(directory), 96), tokenizer, pairs, 24)
    items = [
        Choice("", "kind", pair.sentences, pair.labels, int(np.argmax(score.log_probs)))
        for pair, score in zip(pairs, scores, strict=True)
    ]
    return directory, Sample(text.tolist(), {"minimal_pairs": items}), tokenizer


def compute_now(name, compute):
    return compute()


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_every_way_drops_an_idle_layer_first(own_taste, way):
    trials, passes = trials_of(*own_taste)
    sets = way.choose(trials, MOST, compute_now)
    assert sets[0] == [2]
    assert [len(set(dropped)) for dropped in sets] == [1, 2, 3]
    assert len(passes) == way.passes(LAYERS, MOST)


def test_an_idle_layer_has_no_influence(own_taste):
    trials, _ = trials_of(*own_taste)
    similarity = trials.similarity()
    influence = similarity.block_influence()
    assert influence[2] == pytest.approx(0, abs=1e-12) and (np.delete(influence, 2) > 1e-3).all()
    assert similarity.angle[2, 3] == pytest.approx(0, abs=1e-6)
    assert trials.tasks([2])["minimal_pairs"] == trials.tasks()["minimal_pairs"]
    assert trials.tasks()["minimal_pairs"].accuracy == 1


def choices_of(name, directory, sample, tokenizer=None):
    trials, _ = trials_of(directory, sample, tokenizer)
    return WAYS[name].choose(trials, MOST, compute_now)


def best_order(cost):
    """Drop, three times over, the layer without which `cost` of the dropped layers is lowest."""
    order: list[int] = []
    for _ in range(MOST):
        costs = {
            layer: cost(tuple(sorted([*order, layer])))
            for layer in range(LAYERS)
            if layer not in order
        }
        order.append(min(costs, key=costs.__getitem__))
    return [order[:count] for count in range(1, MOST + 1)]


def test_greedy_perplexity_is_brute_force(family_model, rebuilt, random_windows):
    def cost(dropped):
        return -sum(rebuilt[dropped].log_probs([[window]])[0][0] for window in random_windows)

    found = choices_of("greedy-perplexity", family_model, Sample(random_windows, {}))
    assert found == best_order(cost)


def test_greedy_task_is_brute_force(family_model, rebuilt, own_taste):
    _, sample, tokenizer = own_taste
    items = sample.suites["minimal_pairs"]
    suites = {"minimal_pairs": items[:12], "fact": items[12:15]}

    def cost(dropped):
        parts = [score_choices(rebuilt[dropped], tokenizer, own, 24) for own in suites.values()]
        margins = [
            np.mean([s.log_probs[s.choice.right] - s.log_probs[1 - s.choice.right] for s in own])
            for own in parts
        ]
        return -sum(map(accuracy, parts)), -sum(margins)

    costs = [cost((layer,)) for layer in range(LAYERS)]
    assert len(set(costs)) == LAYERS
    found = choices_of("greedy-task", family_model, Sample([], suites), tokenizer)
    assert found == best_order(cost)


def test_of_equal_accuracies_the_larger_margin_counts(family_model, own_taste):
    """By single items that every cut gets right, or every one wrong."""
    _, sample, tokenizer = own_taste
    trials, _ = trials_of(family_model, sample, tokenizer)
    wanted = set()
    for item in sample.suites["minimal_pairs"][:20]:
        by_item = replace(trials, sample=Sample([], {"minimal_pairs": [item]}))
        scores = [by_item.tasks([layer])["minimal_pairs"] for layer in range(LAYERS)]
        if len({score.accuracy for score in scores}) == 1:
            largest = int(np.argmax([score.margin for score in scores]))
            assert WAYS["greedy-task"].choose(by_item, 1, compute_now) == [[largest]]
            wanted.add(largest)
    assert len(wanted) > 1, "the lowest layer would do"


def test_rescored_is_brute_force(family_model, random_windows):
    order: list[int] = []
    for _ in range(MOST):
        left = [layer for layer in range(LAYERS) if layer not in order]
        streams = torch.stack(list(residual_streams(family_model, order, random_windows)))
        influence = 1 - cosine_similarity(streams[:, :-1], streams[:, 1:], dim=-1).mean(0)
        order.append(left[int(influence.argmin())])
    found = choices_of("rescored", family_model, Sample(random_windows, {}))
    assert found == [order[:count] for count in range(1, MOST + 1)]


def test_contiguous_is_brute_force(family_model, random_windows):
    streams = torch.stack(list(residual_streams(family_model, [], random_windows)))
    blocks = []
    for count in range(1, MOST + 1):
        distances = {}
        for start in range(LAYERS - count + 1):
            cosine = cosine_similarity(streams[:, start], streams[:, start + count], dim=-1)
            distances[start] = float(torch.arccos(cosine).mean())
        start = min(distances, key=distances.__getitem__)
        blocks.append(list(range(start, start + count)))
    assert choices_of("contiguous", family_model, Sample(random_windows, {})) == blocks
