"""Megatron-Bridge loads without Transformer Engine, and nothing takes it for present."""

import ast
import importlib.util
from pathlib import Path

import pytest

from nemo_bielik.megatron import upstream_fixes

absent = pytest.mark.skipif(
    importlib.util.find_spec("transformer_engine") is not None,
    reason="Transformer Engine is installed: nothing stands in for it",
)


@absent
def test_bridge_is_imported_and_core_knows_that_transformer_engine_is_missing(call):
    found = call("runtime_cases:without_transformer_engine")[0]
    assert found["HAVE_TE"]
    assert not any(found["HAVE_TE"].values()), found["HAVE_TE"]
    assert found["loaded"] == []
    assert not found["findable"]


@absent
def test_using_a_placeholder_names_the_missing_package(call):
    said = call("runtime_cases:errors_of_use")[0]
    assert said.keys() == {"named class", "nested class", "subclass", "layer"}
    for name, text in said.items():
        assert "transformer-engine" in text, name
        assert "not installed" in text, name
        assert "\n" not in text, name
    assert "Linear" in said["named class"]
    assert "TELinearAdapter" in said["subclass"]


@absent
def test_installing_again_adds_no_finder(call):
    assert call("runtime_cases:installed_again")[0] == (1, 0)


def test_hooking_pipeline_shapes_again_changes_nothing(call):
    assert call("runtime_cases:shapes_installed_again")[0] is True


@pytest.mark.parametrize("module", upstream_fixes._NEED_TRANSFORMER_ENGINE)
def test_upstream_still_imports_transformer_engine_unconditionally(module):
    """Once it does not, the module leaves the list: that is the condition for removal."""
    package = importlib.util.find_spec("megatron")
    assert package is not None
    parts = module.split(".")[1:]
    files = [
        Path(folder, *parts).with_suffix(".py")
        for folder in package.submodule_search_locations or []
    ]
    source = next(file for file in files if file.is_file()).read_text(encoding="utf-8")
    imported = set()
    for statement in ast.parse(source).body:  # the top level alone: no try, no if
        if isinstance(statement, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            imported.add(statement.module.split(".")[0])
    assert "transformer_engine" in imported


def test_upstreams_evaluation_still_forgets_what_pipeline_stages_exchange(call):
    """Its training hands the schedule the hook; once its evaluation does, ours can go.

    Without ours the ranks of a distillation at two stages do not raise, they crash.
    """
    training, evaluation = (
        call("engine_cases:source_of", f"megatron.bridge.training.{name}")[0]
        for name in ("train", "eval")
    )
    assert "adjust_tensor_shapes_fn=" in training
    assert "adjust_tensor_shapes_fn" not in evaluation


def test_checkpoints_are_written_without_a_process_that_outlives_a_kill(call):
    """Megatron's manager process would; that it still starts one is the reason for the fix."""
    assert call("engine_cases:checkpoint_queue")[0] == ("Queue", [])
    module = "megatron.core.dist_checkpointing.strategies.filesystem_async"
    assert "Manager()" in call("engine_cases:source_of", module)[0]
