"""``nemo llm … --factory bielik_…``, found through the entry point that pyproject.toml declares."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRUNE = [
    "bielik_minitron_7b",
    *(f"bielik_exp_{number:03d}" for number in (1, 2, 3, 4, 5, 6, 8, 9, 10)),
]
DISTILL = ["bielik_minitron_7b", "bielik_minitron_7b_one_node"]


@pytest.fixture(scope="module")
def nemo(nemo2, tmp_path_factory):
    """Run ``nemo …`` where the package is installed with the entry points of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = tmp_path_factory.mktemp("site") / "nemo_bielik_here-0.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: nemo-bielik-here\n")
    points = project["entry-points"]["nemo_run.cli"]
    lines = [f"llm = {points['llm']}"]
    (installed / "entry_points.txt").write_text("\n".join(["[nemo_run.cli]", *lines, ""]))
    return lambda *arguments: nemo2("nemo_command", installed.parent, "llm", *arguments)


@pytest.mark.parametrize("name", PRUNE)
def test_prune_recipes_are_found_and_resolved(name, nemo):
    status, output = nemo("prune", "--factory", name, "--dryrun")
    assert status == 0, output
    assert "Dry run for task nemo.collections.llm.api:prune" in output
    assert "checkpoints/bielik-11b-v3" in output
    assert "Couldn't load entrypoint" not in output


@pytest.mark.parametrize("name", DISTILL)
def test_distill_recipes_are_found_and_resolved(name, nemo):
    status, output = nemo("distill", "--factory", name, "--dryrun")
    assert status == 0, output
    assert "Dry run for task nemo.collections.llm.api:distill" in output
    assert "MockDataModule" not in output  # NeMo's own recipe trains on random tokens
    assert "ckpt_async_save=False" in output
    # not GPT-2's, downloaded; NeMo's table cuts what is longer
    assert "pretrained_model_name='checkpoints/bielik-11b-v3/" in output


def test_overrides_reach_the_recipe(nemo):
    status, output = nemo(
        "distill",
        "--factory",
        "bielik_minitron_7b",
        "trainer.strategy.tensor_model_parallel_size=4",
        "teacher_model_path=/elsewhere/teacher",
        "--dryrun",
    )
    assert status == 0, output
    assert "tensor_model_parallel_size=4" in output
    assert "/elsewhere/teacher" in output
    assert "data/tokens/tokens" in output  # as it was


def test_a_name_that_is_none_is_refused(nemo):
    status, output = nemo("distill", "--factory", "bielik_minitron_8b", "--dryrun")
    assert status == 1
    assert "bielik_minitron_8b" in output


@pytest.mark.parametrize("name", ["bielik_11b_v3", "bielik_minitron_7b"])
def test_models_can_be_imported_by_name(name, nemo):
    status, output = nemo("import", f"model={name}", "source=hf:///a", "--dryrun")
    assert status == 0, output
    assert "BielikModel" in output


def test_recipes_say_the_reports_numbers(nemo2):
    built = nemo2("recipes")
    assert list(built["prune"]) == PRUNE
    assert list(built["distill"]) == DISTILL
    cut = built["prune"]["bielik_minitron_7b"]
    assert "target_ffn_hidden_size=11264" in cut
    assert "target_num_layers=40" in cut
    two_nodes, one_node = (built["distill"][name] for name in DISTILL)
    for said in ("max_steps=8000", "global_batch_size=768", "lr=0.0001", "min_lr=1e-05"):
        assert said in two_nodes
    for recipe in (two_nodes, one_node):
        assert "pretrained_model_name='checkpoints/bielik-11b-v3/context/tokenizer'" in recipe
    assert "num_nodes=2" in two_nodes
    assert "num_nodes=1" in one_node
