"""Every recipe builds the settings of its stage; the full-size ones can be split and fit."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B, EXPERIMENTS, preset
from nemo_bielik.commands import find_command, load
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.errors import ConfigError
from nemo_bielik.parallel import check_sizes
from nemo_bielik.pipeline import pipeline_jobs
from nemo_bielik.planner.devices import Cluster
from nemo_bielik.planner.layouts import MARGIN, legal
from nemo_bielik.planner.training_memory import Layout, Workload, peak_memory, stage_memory
from nemo_bielik.pruning.prune import PruneConfig
from nemo_bielik.recipes.catalog import RECIPES, RecipesConfig, find_recipe, print_recipes
from nemo_bielik.runs import DISTILLED, FINE_TUNED

IDS = [f"{recipe.stage}-{recipe.name}" for recipe in RECIPES]
TRAINED = ("distill", "sft", "dpo")
FORWARD = ("score", "cache-teacher", "reference")
ON_GPUS = [recipe for recipe in RECIPES if recipe.on_gpus]
FULL_SIZE = [recipe for recipe in ON_GPUS if recipe.stage in TRAINED]
FORWARD_ONLY = [recipe for recipe in ON_GPUS if recipe.stage in FORWARD]


@pytest.mark.parametrize("recipe", RECIPES, ids=IDS)
def test_a_recipe_makes_the_settings_of_its_stage_anew(recipe) -> None:
    config = recipe.factory()
    assert type(config) is load(find_command(recipe.stage).config)
    assert config == recipe.factory() and config is not recipe.factory()
    assert find_recipe(recipe.stage, recipe.name)() == config


def test_no_two_recipes_of_a_stage_share_a_name() -> None:
    names = Counter((recipe.stage, recipe.name) for recipe in RECIPES)
    assert set(names.values()) == {1}


def test_all_ten_candidates_are_there_for_pruning_and_for_one_and_two_nodes() -> None:
    for number in range(1, 11):
        name = f"exp_{number:03d}"
        prune: PruneConfig = find_recipe("prune", name)()
        assert prune.target == f"exp-{number:03d}"
        two, one = find_recipe("distill", name)(), find_recipe("distill", f"{name}_1x8")()
        assert two.model == one.model == prune.output  # a chain: what is cut is what is distilled
        assert (two.parallel.processes, one.parallel.processes) == (16, 8)


def student_of(config: DistillConfig):
    if config.model.name in (DISTILLED, FINE_TUNED):
        return preset("bielik-minitron-7b")
    name = config.model.name.removeprefix("pruned").removeprefix("-")
    return EXPERIMENTS[name] if name else preset("bielik-minitron-7b")


def layout_of(config) -> Layout:
    parallel = config.parallel
    return Layout(
        parallel.tensor,
        parallel.pipeline,
        parallel.data,
        config.micro_batch_size,
        parallel.sequence,
        getattr(config, "recompute", False),
        parallel.context,
    )


@pytest.mark.parametrize("recipe", FULL_SIZE, ids=[f"{r.stage}-{r.name}" for r in FULL_SIZE])
def test_full_size_layouts_are_legal_and_fit_an_h200(recipe) -> None:
    config, row = recipe.factory(), recipe.row()
    teacher = BIELIK_11B_V3 if recipe.stage == "distill" else None
    work = Workload(student_of(config), teacher, config.sequence_length, config.global_batch_size)
    cluster = Cluster.parse(f"{row['nodes']}x{row['gpus_per_node']}xH200")
    assert row["nodes"] * row["gpus_per_node"] == config.parallel.processes
    assert layout_of(config) in list(legal(work, cluster))
    assert sum(peak_memory(work, layout_of(config)).values()) <= (1 - MARGIN) * 141e9


def test_every_trial_of_the_full_size_search_is_legal_and_fits_an_h200() -> None:
    config = find_recipe("search", "bielik_11b_v3")()
    run = config.recovery
    for student in config.choose(BIELIK_11B_V3):
        work = Workload(student.arch, BIELIK_11B_V3, run.sequence_length, run.global_batch_size)
        assert layout_of(run) in list(legal(work, Cluster.parse("2x8xH200")))
        assert sum(peak_memory(work, layout_of(run)).values()) <= (1 - MARGIN) * 141e9


@pytest.mark.parametrize("recipe", FORWARD_ONLY, ids=[f"{r.stage}-{r.name}" for r in FORWARD_ONLY])
def test_full_size_forward_passes_can_be_split_and_fit_an_h200(recipe) -> None:
    """The weights of the original, or of the smaller model, and one layer of a micro-batch."""
    config = recipe.factory()
    check_sizes(config.parallel, config.sequence_length, BIELIK_11B_V3)
    work = Workload(BIELIK_MINITRON_7B, BIELIK_11B_V3, config.sequence_length, 1)
    held = stage_memory(work, layout_of(config), 0)
    hidden = config.micro_batch_size * config.sequence_length * BIELIK_11B_V3.hidden_size
    logits = config.micro_batch_size * config.sequence_length * BIELIK_11B_V3.vocab_size
    assert held["teacher"] + held["context"] + 8 * hidden + 6 * logits <= (1 - MARGIN) * 141e9


def test_context_parallel_recipes_train_what_their_whole_ones_do() -> None:
    """As many tokens a step, and nothing but the layout differs."""
    shared = [recipe for recipe in RECIPES if recipe.row()["context"] > 1]
    stages = {(recipe.stage, recipe.row()["nodes"]) for recipe in shared}
    assert stages == {("distill", 1), ("distill", 2), ("sft", 1), ("sft", 2)}
    for recipe in shared:
        whole = find_recipe(recipe.stage, recipe.name.split("_tp2")[0].split("_cp")[0])()
        assert replace(recipe.factory(), parallel=whole.parallel) == whole


def test_the_split_recipe_for_small_gpus_fits_them() -> None:
    config = find_recipe("distill", "minitron_7b_tp2_pp4_1x8")()
    work = Workload(student_of(config), BIELIK_11B_V3, 4096, config.global_batch_size)
    layout = Layout(2, 4, 1, 1, True, False)
    assert sum(peak_memory(work, layout).values()) <= (1 - MARGIN) * 80e9


def test_the_list_for_machines_names_stage_and_layout(capsys) -> None:
    print_recipes(RecipesConfig(json=True))
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == len(RECIPES)
    wanted = {"name", "stage", "model", "nodes", "gpus_per_node", "tensor", "pipeline", "context"}
    assert all(wanted <= row.keys() for row in rows)
    split = next(row for row in rows if row["name"] == "minitron_7b_tp2_pp4")
    assert (split["nodes"], split["gpus_per_node"]) == (2, 8)
    assert (split["tensor"], split["pipeline"], split["data"]) == (2, 4, 2)
    assert all(row["gpus_per_node"] == 0 for row in rows if row["stage"] == "prune")


def test_every_stage_of_a_chain_has_a_recipe_at_full_size_and_a_tiny_one() -> None:
    stages = {
        "prepare",
        "score",
        "prune",
        "cache-teacher",
        "distill",
        "evaluate",
        "pipeline",
        "search",
    }
    tiny = {recipe.stage for recipe in RECIPES if recipe.name == "tiny"}
    assert stages <= tiny
    assert stages <= {recipe.stage for recipe in RECIPES if recipe.name != "tiny"}


def test_the_chain_at_full_size_is_its_stages_own_recipes() -> None:
    jobs = {
        job.label: job.config for job in pipeline_jobs(find_recipe("pipeline", "minitron_7b")())
    }
    assert jobs["prepare"] == find_recipe("prepare", "bielik_11b_v3")()
    assert jobs["score"] == find_recipe("score", "bielik_11b_v3_1x8")()
    assert jobs["distill"] == find_recipe("distill", "minitron_7b")()
    assert jobs["evaluate-distilled"] == find_recipe("evaluate", "minitron_7b")()
    assert not {"sft", "dpo", "grpo"} & set(jobs)
    assistant = find_recipe("pipeline", "minitron_7b_assistant")()
    for job in pipeline_jobs(assistant):
        if job.label in jobs:
            assert job.label == "report" or job.config == jobs[job.label]
        elif job.command in ("sft", "dpo", "grpo"):
            assert job.config == find_recipe(job.command, "minitron_7b")()
    one_node = pipeline_jobs(find_recipe("pipeline", "minitron_7b_1x8")())
    assert max(job.ranks for job in one_node) == 8


def test_a_cache_recipe_holds_the_text_of_its_distillation() -> None:
    for name in ("tiny", "minitron_7b"):
        cache, distill = find_recipe("cache-teacher", name)(), find_recipe("distill", name)()
        for setting in ("teacher", "train_data", "validation_data", "iters", "seed", "packing"):
            assert getattr(cache, setting) == getattr(distill, setting), setting
        assert cache.global_batch_size == distill.global_batch_size
        assert cache.temperatures == [distill.temperature]


@pytest.mark.parametrize("name", ["tiny", "minitron_7b"])
def test_alignment_goes_on_from_distillation(name) -> None:
    distill, sft, reference, dpo = (
        find_recipe(stage, name)() for stage in ("distill", "sft", "reference", "dpo")
    )
    assert (sft.model, dpo.model) == (distill.output, sft.output)
    assert reference == dpo.reference_settings()
    if name != "tiny":  # as the report has it
        assert (sft.epochs, dpo.epochs) == (3, 3)
        assert sft.sequence_length == dpo.sequence_length == 32_768


def test_the_list_for_people_can_be_of_one_stage(capsys) -> None:
    print_recipes(RecipesConfig(stage="score"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + sum(recipe.stage == "score" for recipe in RECIPES)
    assert "bielik_11b_v3" in "".join(lines) and "exp_001" not in "".join(lines)


@pytest.mark.parametrize(
    ("stage", "name", "said"),
    [
        ("distill", "minitron_7", "did you mean 'minitron_7b'"),
        ("distill", "bielik_11b_v3", "it is a recipe of evaluate, prepare, score"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(stage, name, said) -> None:
    with pytest.raises(ConfigError, match=rf"no recipe '{name}' of {stage}.*{said}"):
        find_recipe(stage, name)


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"stage is 'distil'.*recipes exist for"):
        RecipesConfig(stage="distil")
