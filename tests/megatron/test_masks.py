"""Closed masks are a sliced model; slopes and learning agree with plain code in every layout."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plain_reference as plain
import pytest
import torch
from engine_room import END_OF_DOCUMENT, STUDENT, VOCAB_SIZE, write_tokens
from mask_reference import masked_loss

from nemo_bielik.artifacts import PruningPlan
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import BielikError, ConfigError, StorageError
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.pruning.minitron import from_table
from nemo_bielik.pruning.prune import PruneConfig
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.pruning.select import select
from nemo_bielik.pruning.sheared_llama import MASKS_NAME, MaskTable, importance
from nemo_bielik.pruning.shearing import ShearingConfig, mask_shapes, open_counts
from nemo_bielik.pruning.slice import apply_plan
from nemo_bielik.shape import Shape
from nemo_bielik.stages import work_directory

SCORE = "nemo_bielik.pruning.score:score"
LENGTH, BATCH, SAMPLES = 32, 8, 16
EVERY = Shape(
    num_layers=3, hidden_size=18, ffn_hidden_size=14, num_attention_heads=1, num_query_groups=1
)


@pytest.fixture(scope="module")
def settings(student, tokens, tmp_path_factory):
    """Return a function from changes to a `ScoreConfig`; `shearing` takes its own."""

    def make(shearing: dict[str, Any] | None = None, **changes: Any) -> ScoreConfig:
        own = {"target": EVERY, "batch_size": BATCH, "evaluation_samples": BATCH}
        values = {
            "model": student,
            "data": tokens,
            "output": tmp_path_factory.mktemp("masks") / "output",
            "method": "sheared-llama",
            "samples": SAMPLES,
            "sequence_length": LENGTH,
            "micro_batch_size": 4,
            "shearing": ShearingConfig(**own | (shearing or {})),
        }
        return ScoreConfig(**values | changes)

    return make


# --- masks of 0 and 1 are a sliced model


def masks_of(plan: PruningPlan) -> dict[str, torch.Tensor]:
    """Return masks that are 1 where `plan` keeps a unit; in layers that go, anything."""
    generator = torch.Generator().manual_seed(5)
    masks = {
        name: torch.rand(shape, generator=generator, dtype=torch.float64)
        for name, shape in mask_shapes(plan.source).items()
    }
    for name, kept in {"layers": plan.layers, "hidden": plan.hidden}.items():
        masks[name] = torch.zeros_like(masks[name])
        masks[name][kept] = 1
    for place, layer in enumerate(plan.layers):
        for name, kept in {"ffn": plan.ffn, "groups": plan.groups, "heads": plan.heads}.items():
            closed = torch.zeros(masks[name][layer].numel(), dtype=torch.float64)
            closed[kept[place]] = 1
            masks[name][layer] = closed.view(masks[name][layer].shape)
    return masks


@pytest.mark.parametrize(
    "layout",
    [ParallelConfig(), ParallelConfig(tensor=2), ParallelConfig(pipeline=2)],
    ids=["one process", "tensor=2", "pipeline=2"],
)
@pytest.mark.parametrize(
    "shape",
    [EVERY, Shape(num_attention_heads=2, num_query_groups=1, hidden_size=20)],
    ids=["everything", "a whole group"],
)
def test_masks_of_0_and_1_are_the_sliced_model(
    settings, student, random_scores, logits, call, tmp_path, shape, layout
):
    source = Checkpoint.open(student)
    scores = random_scores(source.arch, source.fingerprint())
    plan = select(from_table(scores), source.arch.replace(**shape.given()))
    apply_plan(source, plan, tmp_path)
    rows = torch.randint(3, VOCAB_SIZE, (2, 12), generator=torch.Generator().manual_seed(3))
    config = settings(parallel=layout)
    ranks = call("mask_cases:masked_logits", config, masks_of(plan), rows, parallel=layout)
    sliced = logits(tmp_path, rows)
    assert (sliced - logits(student, rows)).abs().max() > 0.1
    for found in [rank for rank in ranks if rank is not None]:
        torch.testing.assert_close(found, sliced, atol=1e-5, rtol=1e-5)


# --- slopes


@pytest.fixture(scope="module")
def half_open(student):
    """Masks between 0 and 1, some of them exactly 0 or 1."""
    generator = torch.Generator().manual_seed(7)
    return {
        name: (torch.rand(shape, generator=generator, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
        for name, shape in mask_shapes(Checkpoint.open(student).arch).items()
    }


@pytest.fixture(scope="module")
def expected_slopes(student, tokens, half_open, call, tmp_path_factory):
    cache = tmp_path_factory.mktemp("index")
    packed = call("engine_cases:packed_samples", tokens, SAMPLES, LENGTH, 1, VOCAB_SIZE, cache)[0]
    rows, labels = packed["tokens"][:BATCH], packed["labels"][:BATCH]
    return masked_loss(student, rows, labels, half_open)


@pytest.mark.parametrize(
    "layout",
    [
        ParallelConfig(),
        ParallelConfig(tensor=2),
        ParallelConfig(pipeline=2),
        ParallelConfig(data=2),
    ],
    ids=["one process", "tensor=2", "pipeline=2", "data=2"],
)
def test_loss_and_slopes_agree_with_plain_transformers(
    settings, half_open, expected_slopes, call, tmp_path, layout
):
    micro = 2 if layout.pipeline > 1 else 4  # several micro-batches a stage
    config = settings(parallel=layout, micro_batch_size=micro)
    loss, slopes = expected_slopes
    for forward_only, found, by_mask in call(
        "mask_cases:loss_and_slopes", config, half_open, tmp_path, parallel=layout
    ):
        assert found == pytest.approx(loss, rel=1e-5)
        assert forward_only == pytest.approx(loss, rel=1e-5)
        assert by_mask.keys() == slopes.keys()
        for name, slope in by_mask.items():
            assert slopes[name].abs().max() > 1e-4, name
            torch.testing.assert_close(slope, slopes[name], rtol=1e-4, atol=1e-6, msg=name)


# --- learning


@pytest.fixture(scope="module")
def counted() -> list[list[int]]:
    """Documents in which every token is followed by the next higher one."""
    starts = np.random.default_rng(3).integers(3, 27, 40)
    return [[*range(start, start + 20), END_OF_DOCUMENT] for start in starts.tolist()]


@pytest.fixture(scope="module")
def counting(counted, tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("domain") / "counting", counted)


@pytest.fixture(scope="module")
def counter(make_model, counted):
    """A model that was taught `counting` and knows nothing of `tokens`: masks hurt it on one."""
    directory = make_model(seed=4, **STUDENT)
    model = plain.load(directory).float()
    rows = torch.tensor(counted)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(rows, labels=rows).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 1.0  # log 48 = 3.9 is chance
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def few_steps(settings, counter, counting, call, tmp_path_factory):
    def run(layout: ParallelConfig) -> list[dict[str, Any]]:
        shearing = {"iters": 5, "update_interval": 2, "domains": [counting]}
        config = settings(shearing, model=counter, parallel=layout)
        work = tmp_path_factory.mktemp("work")
        return call("mask_cases:learned", config, work, parallel=layout)

    return run


@pytest.fixture(scope="module")
def one_process(few_steps):
    return few_steps(ParallelConfig())[0]


@pytest.mark.parametrize(
    "layout",
    [ParallelConfig(tensor=2), ParallelConfig(pipeline=2), ParallelConfig(data=2)],
    ids=["tensor=2", "pipeline=2", "data=2"],
)
def test_every_layout_learns_the_masks_of_one_process(few_steps, one_process, layout):
    first, second = few_steps(layout)
    assert one_process["weights"][1] > 0.5
    for name, expected in one_process.items():
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        np.testing.assert_allclose(first[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)


LEARNING = {
    "iters": 120,
    "mask_lr": 0.2,
    "update_interval": 30,
    "save_interval": 50,
    "proportions": [3.0, 1.0],
}


#: Bound on the mean over the kinds of the share of units whose E[z] is on the other side of ½ than
#: their fate. A tiny model prefers few units: 0.32 here. Masks that are all alike give 0.64.
UNDECIDED = 0.4


@pytest.fixture(scope="module")
def learning(settings, counter, counting):
    return lambda: settings(LEARNING | {"domains": [counting]}, model=counter)


@pytest.fixture(scope="module")
def finished(learning, lanes) -> Path:
    config = learning()
    lanes.run(SCORE, config)
    return config.output


def curve(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def expected_sizes(log_alpha: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return Σ P(z ≠ 0) of every constraint of layers that stay, after Louizos et al. (2018)."""
    stretch = (2 / 3) * math.log(0.1 / 1.1)  # β log(−γ/ζ)
    layers = np.sort(np.argsort(log_alpha["layers"])[-EVERY.num_layers :])
    sizes = {}
    for name, values in log_alpha.items():
        sums = (1 / (1 + np.exp(stretch - values))).sum(axis=-1)
        sizes[name] = sums if sums.ndim == 0 else sums[layers]
    return sizes


def test_the_learned_shape_is_the_target_exactly(finished, counter, tmp_path):
    table = MaskTable.load(finished / MASKS_NAME)
    source = Checkpoint.open(counter)
    assert table.model == source.fingerprint()
    for name, expected in expected_sizes(table.log_alpha).items():
        kept = open_counts(table.arch, table.target)[name][1]
        assert np.abs(expected - kept).max() < 0.5, name
    undecided = Manifest.load(finished).results["undecided"]
    assert undecided.keys() == table.log_alpha.keys()
    assert np.mean(list(undecided.values())) < UNDECIDED
    wanted = EVERY.given()
    folders = {"model": counter, "output": tmp_path, "scores": finished}
    options = PruneConfig(**folders, method="sheared-llama", **wanted)
    plan = select(importance(finished, options), source.arch.replace(**wanted))
    apply_plan(source, plan, tmp_path)
    found = Checkpoint.open(tmp_path).arch
    assert {name: getattr(found, name) for name in wanted} == wanted
    assert [path.name for path in finished.parent.iterdir()] == ["output"]
    # the sizes came down to the target and the way there is told
    steps = curve(finished)
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1))
    assert 120 <= len(steps) <= 150
    assert steps[0]["open"]["hidden"] > 23 and abs(steps[-1]["open"]["hidden"] - 18) < 0.5
    assert steps[-1]["worst_excess"] < 0.1 * steps[0]["worst_excess"]
    assert Manifest.load(finished).results["kept_layers"] == plan.layers


def test_domains_that_masks_hurt_are_read_more(finished, counter, tokens, counting, call):
    results = Manifest.load(finished).results
    steps = curve(finished)
    for line in steps:
        assert math.isclose(sum(line["domains"].values()), 1)
    at = {line["step"]: list(line["domains"].values()) for line in steps}
    assert at[1] == at[29] == [0.75, 0.25]
    assert at[29] != at[30] == at[59] != at[60]
    assert at[120][1] > 0.25
    assert sum(results["sequences_read"].values()) == len(steps) * BATCH
    # the references are the plain model's losses of the sequences kept aside
    model = plain.load(counter)
    for name, path in {"tokens": tokens, "counting": counting}.items():
        arguments = (path, SAMPLES + BATCH, LENGTH, 1, VOCAB_SIZE, finished.parent / "index")
        packed = call("engine_cases:packed_samples", *arguments)[0]
        rows, labels = packed["tokens"][:BATCH], packed["labels"][:BATCH]
        with torch.no_grad():
            surprise = plain.token_surprise(plain.packed_logits(model, rows), labels)
        expected = float(plain.masked_mean(surprise, rows))
        assert results["reference_losses"][name] == pytest.approx(expected, rel=1e-5)


def test_an_interrupted_run_continues_with_the_same_numbers(learning, finished, lanes, call):
    """Stopped before its first state is saved, then between two of them, then left alone."""
    config = learning()
    for steps in (20, 70):
        assert call("mask_cases:interrupted", config, steps) == ["interrupted"]
        assert not config.output.exists()
    lanes.run(SCORE, config)
    for name in (MASKS_NAME, "metrics.jsonl"):
        assert (config.output / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_shape_that_was_not_reached_is_one_line(settings, lanes):
    """And other settings may try again, without anything to be removed by hand."""
    config = settings({"iters": 3, "save_interval": 2})
    again = replace(config, shearing=replace(config.shearing, iters=4))
    for attempt, steps in ((config, 3), (again, 5)):
        with pytest.raises(
            ConfigError, match=r"misses its target .* raise shearing.iters or"
        ) as caught:
            lanes.run(SCORE, attempt)
        assert "\n" not in str(caught.value)
        work = work_directory(config.output)
        assert str(work / "metrics.jsonl") in str(caught.value)
        assert [line["step"] for line in curve(work)] == list(range(1, steps + 1))
        assert list(config.output.parent.iterdir()) == [work]


def test_a_killed_run_continues_on_another_layout_but_not_with_other_settings(
    settings, lanes, call
):
    config = settings({"iters": 3, "save_interval": 1})
    assert call("mask_cases:interrupted", config, 2) == ["interrupted"]
    work = work_directory(config.output)
    before = curve(work)
    with pytest.raises(StorageError, match=r"with another seed, .* remove it"):
        lanes.run(SCORE, replace(config, seed=2))
    with pytest.raises(ConfigError, match="misses its target"):  # three steps are few
        lanes.run(SCORE, replace(config, parallel=ParallelConfig(data=2)))
    assert len(before) == 2
    assert curve(work)[:2] == before
    assert [line["step"] for line in curve(work)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("shearing", "changes", "said"),
    [
        ({"target": Shape()}, {}, "shearing.target cuts nothing"),
        ({"target": Shape(ffn_hidden_size=99)}, {}, "at most the model's 20"),
        ({"batch_size": 6}, {}, r"shearing.batch_size is 6; .* multiple of .* = 4"),
        ({"domains": [Path("b/tokens")]}, {}, "2 directories are called 'tokens'"),
        ({"domains": [Path("b/other")]}, {}, r"b/other: holds no tokens.idx"),
    ],
)
def test_settings_that_cannot_be_are_one_line_and_leave_nothing(
    settings, lanes, shearing, changes, said
):
    config = settings(shearing, **changes)
    with pytest.raises(BielikError, match=said) as caught:
        lanes.run(SCORE, config)
    assert "\n" not in str(caught.value)
    assert list(config.output.parent.iterdir()) == []


def test_domain_losses_need_full_batches(settings, lanes, held_out, tmp_path):
    other = tmp_path / "other"
    other.symlink_to(held_out)
    config = settings({"domains": [other], "evaluation_samples": 6})
    with pytest.raises(ConfigError, match=r"shearing.evaluation_samples is 6; .* = 4"):
        lanes.run(SCORE, config)
