"""The stage from files to files: what it writes, how it goes on, what it refuses."""

import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import BielikError, CheckpointError, ConfigError, DataError, StorageError
from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.evaluate.stage import evaluate
from nemo_bielik.manifest import Manifest
from nemo_bielik.pruning.depth.ranking import DepthRanking
from nemo_bielik.pruning.depth.stage import DepthConfig, describe, kept_layers, rank_layers
from nemo_bielik.pruning.depth.trials import Trials
from nemo_bielik.pruning.depth.ways import WAYS

LAYERS, MOST = 4, 2


def documents(first: int) -> str:
    lines = [[f"słowo{(first + 7 * n * k) % 37}" for k in range(3 + n % 4)] for n in range(1, 17)]
    return "\n\n".join(f"słowo{first} " + " ".join(line) for line in lines)


@pytest.fixture(scope="module")
def judged_model(make_model, tokenizer_directory):
    directory = make_model(seed=6)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_directory / name, directory)
    return directory


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Two texts, minimal pairs and facts: for the last two, 8 items of two kinds."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "texts.txt").write_text(documents(0), encoding="utf-8")
    (folder / "held_out.txt").write_text(documents(1), encoding="utf-8")
    pairs = [
        {"phenomenon": f"p{n % 2}", "good": f"słowo{n} słowo{n + 9}", "bad": f"słowo{n} słowo3"}
        for n in range(8)
    ]
    facts = [
        {
            "relation": f"r{n % 2}",
            "prompt": f"słowo{n} ",
            "answer": f"słowo{n + 1}",
            "candidates": [f"słowo{n + 1}", "słowo20", "słowo21"],
        }
        for n in range(8)
    ]
    for name, records in (("pairs", pairs), ("facts", facts)):
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def config_for(judged_model, inputs):
    """Return a function from an output directory to settings that use everything."""

    def make(output):
        return DepthConfig(
            model=judged_model,
            texts=[inputs / "texts.txt"],
            held_out=[inputs / "held_out.txt"],
            minimal_pairs=inputs / "pairs.jsonl",
            facts=inputs / "facts.jsonl",
            output=output,
            most=MOST,
            samples=8,
            stability_sizes=[2, 8],
            repeats=2,
            greedy_repeats=2,
            sequence_length=32,
        )

    return make


@pytest.fixture
def config(config_for, tmp_path):
    return config_for(tmp_path / "depth")


@pytest.fixture(scope="module")
def undisturbed(config_for, tmp_path_factory):
    """The settings of a finished run and what it found."""
    config = config_for(tmp_path_factory.mktemp("out") / "depth")
    rank_layers(config)
    return config, DepthRanking.load(config.output / "depth.json")


def test_every_way_is_ranked_and_judged(undisturbed):
    config, ranking = undisturbed
    assert list(ranking.ways) == list(WAYS)
    for way, cuts in ranking.ways.items():
        assert [len(set(cut.dropped)) for cut in cuts] == [1, 2]
        if way != "contiguous":
            assert cuts[1].dropped[:1] == cuts[0].dropped
        for cut in cuts:
            assert set(cut.measured) == set(ranking.whole)
    assert ranking.model == Checkpoint.open(config.model).fingerprint()
    assert ranking.judged_on["minimal_pairs items"] == ranking.judged_on["fact items"] == 4
    manifest = Manifest.load(config.output)
    assert manifest.results["dropped"]["rescored"] == ranking.sets("rescored")[-1]
    assert [path.name for path in config.output.parent.iterdir()] == ["depth"]


def test_cuts_are_judged_as_evaluate_does(undisturbed, inputs, tmp_path):
    """The half for judging, written to files and given to the evaluation stage."""
    config, ranking = undisturbed
    halves = {}
    for name, kind in (("pairs", "phenomenon"), ("facts", "relation")):
        records = [json.loads(line) for line in (inputs / f"{name}.jsonl").open(encoding="utf-8")]
        kinds = [[r for r in records if r[kind].endswith(digit)] for digit in "01"]
        halves[name] = tmp_path / f"{name}.jsonl"
        lines = [json.dumps(r, ensure_ascii=False) for own in kinds for r in own[2:]]
        halves[name].write_text("\n".join(lines), encoding="utf-8")
    evaluate(
        EvaluateConfig(
            model=config.model,
            output=tmp_path / "out",
            texts=config.held_out,
            minimal_pairs=halves["pairs"],
            facts=halves["facts"],
            sequence_length=32,
        )
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert set(ranking.whole) == {"perplexity", "minimal_pairs_accuracy", "fact_accuracy"}
    for name, value in ranking.whole.items():
        assert value == pytest.approx(results[name], rel=1e-6)


def test_stability_has_the_sizes_that_fit(undisturbed):
    _, ranking = undisturbed
    found = {(own.way, own.size): len(own.choices) for own in ranking.stability}
    for way, size in itertools.product(WAYS, (2, 8)):
        fits = 2 * size <= (4 if way == "greedy-task" else 16)
        assert found.pop((way, size)) == (2 if fits else 0)
    assert not found
    first = next(own for own in ranking.stability if own.way == "rescored" and own.size == 8)
    assert first.choices[0] == ranking.sets("rescored")  # the same sample


def test_the_dry_run_states_the_cost(undisturbed, config, monkeypatch):
    passes = count_calls(monkeypatch)
    _, ranking = undisturbed
    lines = describe(config)
    assert not config.output.parent.joinpath(".depth.work").exists() and not any(passes.values())
    rank_layers(config)
    distinct = {tuple(sorted(cut.dropped)) for cuts in ranking.ways.values() for cut in cuts}
    spared = 2 * (len(WAYS) * MOST - len(distinct))  # judged once, by text and by items
    stated = int(lines[0].split()[0])
    assert stated - spared == sum(passes.values())
    assert any(line.split()[:2] == ["greedy-perplexity", "7"] for line in lines)


def count_calls(monkeypatch):
    calls = dict.fromkeys(("similarity", "perplexity", "tasks"), 0)
    for name in calls:
        method = getattr(Trials, name)

        def counted(self, *args, name=name, method=method):
            calls[name] += 1
            return method(self, *args)

        monkeypatch.setattr(Trials, name, counted)
    return calls


def test_an_interrupted_run_goes_on(undisturbed, config, monkeypatch):
    def interrupt(self, dropped=()):
        if len(dropped) == 2:
            raise KeyboardInterrupt
        return tasks(self, dropped)

    tasks = Trials.tasks
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trials, "tasks", interrupt)
        rank_layers(config)
    assert not config.output.exists()
    with pytest.raises(StorageError, match=r"\.depth\.work: already made .* with another seed"):
        rank_layers(replace(config, seed=2))
    calls = count_calls(monkeypatch)
    whole_run, _ = undisturbed
    rank_layers(config)
    found, expected = (c.output / "depth.json" for c in (config, whole_run))
    assert found.read_bytes() == expected.read_bytes()
    # 1 + 2 + 1 passes of the ways without search on each of 4 samples, of which one was done
    assert calls["similarity"] == 4 * 4 - 1
    assert [path.name for path in config.output.parent.iterdir()] == ["depth"]


def test_a_second_run_shows_the_tables_and_does_nothing(undisturbed, monkeypatch, capsys):
    config, _ = undisturbed
    calls = count_calls(monkeypatch)
    assert describe(config) == [f"{config.output}: already done"]
    rank_layers(config)
    assert not any(calls.values())
    assert "share of the dropped layers that two ways have in common" in capsys.readouterr().out


def test_kept_layers(undisturbed, tmp_path):
    config, ranking = undisturbed
    model = ranking.model
    for way in WAYS:
        for count in range(1, MOST + 1):
            kept = kept_layers(config.output, way, LAYERS - count, model)
            assert kept == sorted(kept)
            assert sorted(kept + ranking.sets(way)[count - 1]) == list(range(LAYERS))
    assert kept_layers(config.output, "rescored", LAYERS, model) == list(range(LAYERS))
    with pytest.raises(ConfigError, match=r"no way 'greedy'.* it holds block-influence, rescored"):
        kept_layers(config.output, "greedy", 3, model)
    with pytest.raises(ConfigError, match="num_layers is 1; this ranking goes from 4 down to 2"):
        kept_layers(config.output, "rescored", 1, model)
    with pytest.raises(ConfigError, match="num_layers is 5"):
        kept_layers(config.output, "rescored", 5, model)
    with pytest.raises(DataError, match="layers of another model"):
        kept_layers(config.output, "rescored", 3, "another")
    with pytest.raises(DataError, match=r"depth\.json: no such ranking of layers"):
        kept_layers(tmp_path, "rescored", 3, model)


def test_ways_follow_the_inputs(config):
    without = replace(config, minimal_pairs=None, facts=None)
    assert [way.name for way in without.chosen_ways()] == list(WAYS)[:4]
    chosen = replace(config, ways=["greedy-task", "rescored"]).chosen_ways()
    assert [way.name for way in chosen] == ["rescored", "greedy-task"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"texts": []}, "texts is empty"),
        ({"held_out": []}, "held_out is empty"),
        ({"most": 0}, "most is 0; it must be at least 1"),
        ({"stability_sizes": [4, 0]}, "a size in stability_sizes is 0"),
        ({"repeats": 1}, r"repeats is 1; it must be 0 \(none\) or at least 2"),
        ({"ways": ["gredy-task"]}, "way 'gredy-task' is unknown .did you mean 'greedy-task'"),
        (
            {"ways": ["greedy-task"], "minimal_pairs": None, "facts": None},
            "greedy-task needs minimal_pairs or facts",
        ),
    ],
)
def test_bad_settings_are_refused(config, changes, line):
    with pytest.raises(ConfigError, match=line):
        replace(config, **changes)


@pytest.mark.parametrize(
    ("changes", "error", "line"),
    [
        ({"most": 4}, ConfigError, "most is 4; .* has 4 layers, of which at least one must stay"),
        ({"sequence_length": 65}, ConfigError, "sequence_length is 65; .* 64 positions at most"),
        ({"samples": 17}, DataError, r"texts\.txt: 16 different windows .* samples is 17; give"),
        ({"sequence_length": 2}, DataError, r"pairs\.jsonl: line 1: a sentence has 3 tokens"),
    ],
)
def test_bad_inputs_are_refused_before_any_work(config, changes, error, line):
    with pytest.raises(error, match=line):
        rank_layers(replace(config, **changes))
    assert not list(config.output.parent.iterdir())


def test_texts_and_items_that_are_not_usable(config, make_model, tokenizer_directory, tmp_path):
    with pytest.raises(DataError, match="every document is in texts too"):
        describe(replace(config, held_out=config.texts))
    lonely = tmp_path / "lonely.jsonl"
    lonely.write_text('{"phenomenon": "p", "good": "a", "bad": "b"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"lonely\.jsonl: too few items to halve"):
        describe(replace(config, minimal_pairs=lonely))
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"empty\.jsonl: holds not a single token"):
        describe(replace(config, held_out=[tmp_path / "empty.jsonl"]))
    small = make_model(vocab_size=39)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_directory / name, small)
    with pytest.raises(CheckpointError, match="tokenizer has 40 tokens, the model only 39"):
        describe(replace(config, model=small))
    with pytest.raises(BielikError, match="no such model directory"):
        describe(replace(config, model=tmp_path / "none"))


def test_help_and_dry_runs_import_no_torch():
    code = "import sys, nemo_bielik.pruning.depth.stage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
