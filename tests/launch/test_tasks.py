"""A stage and its settings as a command line that gives the same settings again."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.errors import ConfigError
from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.launch.tasks import Task, command_words, script, with_absolute_paths
from nemo_bielik.options import parse_config
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.phases import Phase

PATHS = {name: Path(f"/{name}") for name in ("model", "teacher", "train_data", "output")}


def test_every_setting_is_written_out_and_read_back():
    config = DistillConfig(**PATHS, parallel=ParallelConfig(tensor=2, data=2, sequence=True))
    words = command_words(Task("distill", config))
    assert words[0] == "distill"
    assert {"parallel.tensor=2", "parallel.sequence=true", "model=/model"} <= set(words)
    assert {"optim.max_lr=0.0001", "divergence=forward-kl"} <= set(words)
    assert parse_config(DistillConfig, words[1:], "test") == config
    changed = replace(config, iters=77)
    assert parse_config(DistillConfig, command_words(Task("distill", changed))[1:], "t") == changed


def test_phases_are_written_as_json_and_their_paths_resolved(tmp_path):
    phases = [Phase(iters=900), Phase(iters=100, micro_batch_size=2, train_data=[Path("late")])]
    config = DistillConfig(**PATHS, save_interval=50, phases=phases)
    config = with_absolute_paths(config, tmp_path)
    assert config.phases[1].train_data == [tmp_path / "late"]
    words = command_words(Task("distill", config))
    assert parse_config(DistillConfig, words[1:], "test") == config


def test_a_text_that_no_command_line_can_hold_is_refused():
    config = EvaluateConfig(model=Path("/m"), output=Path("/a,b"), texts=[Path("/t")])
    assert "output=/a,b" in command_words(Task("evaluate", config))  # one path may hold a comma
    with pytest.raises(ConfigError, match="cannot be written as a command line"):
        command_words(Task("evaluate", replace(config, document_separator="none")))


def test_texts_with_commas_are_written_and_read_back():
    config = EvaluateConfig(model=Path("/m"), output=Path("/o"), texts=[Path("/a,b"), Path("/c")])
    words = command_words(Task("evaluate", config))
    assert 'texts=["/a,b", "/c"]' in words
    assert parse_config(EvaluateConfig, words[1:], "t") == config


def test_relative_paths_start_at_the_root_and_are_refused_without(tmp_path):
    config = DistillConfig(**PATHS | {"output": Path("out")})
    assert with_absolute_paths(config, tmp_path).output == tmp_path / "out"
    assert with_absolute_paths(config, tmp_path).model == Path("/model")
    with pytest.raises(ConfigError, match="output is 'out'; give an absolute path of the site"):
        with_absolute_paths(config, None)


def test_the_script_quotes_its_words_and_hands_signals_and_status_on(tmp_path):
    python = tmp_path / "python of mine"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@" "$RANK"\nexit 7\n')
    python.chmod(0o755)
    words = ["train", "output=/a b/$HOME", "model='"]
    text = script(words, str(python), {"RANK": "$((1+1))"})
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True)
    assert done.returncode == 7
    assert done.stdout.splitlines() == ["-m", "nemo_bielik", *words, "2"]
    assert "\nexec " in text
