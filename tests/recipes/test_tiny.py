"""Every recipe builds, offline and without the engine, and the tiny one is what it says it is."""

import importlib
import inspect
import pkgutil
import re
import socket
import subprocess
import sys

import pytest

from nemo_bielik import recipes
from nemo_bielik.arch import preset
from nemo_bielik.demo import DemoConfig
from nemo_bielik.pipeline import PipelineConfig
from nemo_bielik.planner.parameters import count_one_embedding, reduction_percent
from nemo_bielik.recipes import tiny
from nemo_bielik.shape import Shape
from nemo_bielik.training import TrainSettings

HEAVY = ("torch", "megatron", "nemo", "nemo_run", "transformers", "modelopt")


def recipe_modules():
    return [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(recipes.__path__, f"{recipes.__name__}.")
        if found.name != "nemo_bielik.recipes.catalog"  # their table
    ]


def factories():
    """Every public function that a recipe module defines: each must work without arguments."""
    return {
        f"{module.__name__}.{name}": factory
        for module in recipe_modules()
        for name, factory in inspect.getmembers(module, inspect.isfunction)
        if factory.__module__ == module.__name__ and not name.startswith("_")
    }


FACTORIES = factories()


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_):
        raise AssertionError("a recipe asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_the_walk_finds_recipes():
    assert {"nemo_bielik.recipes.tiny.teacher", "nemo_bielik.recipes.tiny.label_rates"} <= set(
        FACTORIES
    )


@pytest.mark.parametrize("name", FACTORIES)
def test_a_factory_builds_a_value_of_its_own_each_time(name):
    factory = FACTORIES[name]
    first, second = factory(), factory()
    assert first == second
    assert first is not second  # a variant may change its parent's value
    assert first is not None
    assert factory.__doc__


@pytest.mark.parametrize("name", FACTORIES)
def test_settings_of_two_calls_share_nothing_that_can_change(name):
    first, second = FACTORIES[name](), FACTORIES[name]()
    if isinstance(first, TrainSettings):
        assert first.optim is not second.optim
        assert first.parallel is not second.parallel


def test_recipes_load_without_the_engine():
    modules = ", ".join(module.__name__ for module in recipe_modules())
    code = f"import sys, {modules}\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def tiny_teacher():
    shape = tiny.teacher_shape().given()
    return preset("tiny-bielik-11b-v3").replace(vocab_size=tiny.VOCAB_SIZE, **shape)


def test_the_default_commands_take_the_recipe(tmp_path):
    config = PipelineConfig(output=tmp_path)
    assert config.teacher == tiny.teacher()
    assert config.recovery == DemoConfig().recovery == tiny.recovery()
    assert config.lanes >= config.teacher.parallel.processes
    assert config.lanes >= config.recovery.parallel.processes


def test_the_teacher_has_about_a_million_parameters():
    assert 0.75e6 < count_one_embedding(tiny_teacher()) < 1.25e6


def test_the_target_is_a_third_smaller_as_the_reports():
    """The report's own cut, 11.04 to 7.35 billion, is 33.4 %."""
    student = tiny_teacher().replace(**tiny.target().given())
    assert reduction_percent(tiny_teacher(), student) == pytest.approx(33.4, abs=1.5)
    assert tiny.target().given().keys() == {"num_layers", "ffn_hidden_size"}


def test_a_target_names_no_size_of_its_own_beyond_the_teachers():
    teacher = tiny.teacher_shape().given()
    assert teacher.keys() == vars(Shape()).keys()
    for name, size in tiny.target().given().items():
        assert size < teacher[name]


def test_sequences_fit_the_teachers_positions():
    for settings in (tiny.teacher(), tiny.recovery(), tiny.from_scratch()):
        assert settings.sequence_length <= tiny_teacher().max_position_embeddings


def test_recovery_takes_the_tokens_that_its_docstring_tells():
    (told,) = re.findall(r"([\d,]+) tokens", inspect.getdoc(tiny.recovery) or "")
    assert tiny.recovery().tokens == pytest.approx(int(told.replace(",", "")), rel=0.05)


def test_the_control_from_scratch_differs_in_its_learning_rate_alone():
    recovery, control = tiny.recovery().fields(), tiny.from_scratch().fields()
    assert [name for name in recovery if recovery[name] != control[name]] == ["optim"]
    theirs, ours = vars(control["optim"]), vars(recovery["optim"])
    assert {name for name in ours if ours[name] != theirs[name]} == {"max_lr", "min_lr"}
    assert theirs["max_lr"] > ours["max_lr"]
