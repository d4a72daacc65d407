"""The summary of a run whose every figure can be worked out by hand."""

import math

import pytest

from nemo_bielik.arch import ModelArch
from nemo_bielik.demo import DemoConfig
from nemo_bielik.files import write_json
from nemo_bielik.manifest import Manifest
from nemo_bielik.runs import Run
from nemo_bielik.summary import recovery_by_measure, summarize

TEACHER = ModelArch(
    name="teacher",
    vocab_size=8,
    hidden_size=4,
    ffn_hidden_size=6,
    num_layers=2,
    num_attention_heads=2,
    num_query_groups=1,
    head_dim=2,
)
#: Perplexity, minimal pairs and facts: the baseline is the better of each, 0.5 and 0.2.
SCORES = {
    "baseline-unigram": (50.0, 0.4, 0.2),
    "baseline-bigram": (20.0, 0.5, 0.1),
    "teacher": (3.0, 1.0, 1.0),
    "pruned": (30.0, 0.75, 0.6),
    "distilled-seed1": (4.0, 0.9, 0.92),
    "distilled-seed2": (9.0, 1.0, 1.0),
    "label_trained-seed1": (5.0, 0.8, 0.6),
    "label_trained-seed2": (5.0, 0.9, 0.6),
    "from_scratch-seed1": (8.0, 0.6, 0.2),
    "from_scratch-seed2": (2.0, 0.6, 0.36),
}
#: (score − baseline) / (teacher − baseline), in percent, of the mean over seeds.
RECOVERED = {
    "pruned": (50, 50),
    "distilled": (90, 95),
    "label_trained": (70, 50),
    "from_scratch": (20, 10),
}


@pytest.fixture
def summary_of(tmp_path):
    """Return a function that writes a run with some scores changed and returns its summary."""

    def build(**changes):
        run = Run(tmp_path)
        for name, (perplexity, pairs, facts) in (SCORES | changes).items():
            results = {
                "perplexity": perplexity,
                "minimal_pairs_accuracy": pairs,
                "fact_accuracy": facts,
                "by_phenomenon": {"case": {"accuracy": pairs, "items": 10}},
                "by_relation": {"city": {"accuracy": facts, "items": 20}},
                "unrelated": 1,
            }
            write_json(run.evaluation(name) / "results.json", results)
        for arch in (TEACHER, TEACHER.replace(name="pruned", num_layers=1)):
            write_json(run.model(arch.name) / "config.json", arch.to_hf_config())
        for rate, perplexity in [("0.001", 7.0), ("0.002", 6.0)]:
            directory = run.model(f"label_trained-rate{rate}")
            directory.mkdir(parents=True, exist_ok=True)
            results = {"best_validation_loss": math.log(perplexity)}
            Manifest(stage="train", config={}, results=results).save(directory)
        config = DemoConfig(output=tmp_path, seeds=[1, 2], label_rates=[1e-3, 2e-3])
        return summarize(config, [{"name": "prune", "wall_seconds": 1.5}])

    return build


def target(summary, words):
    (found,) = [row for row in summary["targets"] if words in row["name"]]
    return found


def test_the_baseline_is_the_better_model_on_every_measure(summary_of):
    baseline = summary_of()["baseline"]
    assert (baseline["perplexity"], baseline["minimal_pairs_accuracy"]) == (20, 0.5)
    assert baseline["fact_accuracy"] == 0.2
    assert baseline["unigram"]["perplexity"] == 50
    assert baseline["bigram"]["fact_accuracy"] == 0.1


def test_models_that_have_seeds_are_means_over_them(summary_of):
    distilled = summary_of()["distilled"]
    assert distilled["perplexity"] == pytest.approx(6.5)  # of 4 and 9
    assert distilled["minimal_pairs_accuracy"] == pytest.approx(0.95)
    assert distilled["fact_accuracy"] == pytest.approx(0.96)
    assert distilled["by_phenomenon"]["case"]["accuracy"] == pytest.approx(0.95)
    assert distilled["by_relation"]["city"]["accuracy"] == pytest.approx(0.96)
    assert [(s["seed"], s["perplexity"]) for s in distilled["seeds"]] == [(1, 4), (2, 9)]


def test_a_model_without_seeds_is_its_evaluation(summary_of):
    teacher = summary_of()["teacher"]
    assert (teacher["perplexity"], teacher["fact_accuracy"]) == (3, 1)
    assert "unrelated" not in teacher


def test_recovery_is_counted_above_the_baseline(summary_of):
    summary = summary_of()
    for name, (pairs, facts) in RECOVERED.items():
        found = summary["recovery_percent_by_measure"][name]
        assert found["minimal_pairs_accuracy"] == pytest.approx(pairs)
        assert found["fact_accuracy"] == pytest.approx(facts)
        mean = (pairs + facts) / 2
        assert summary["recovery_percent_by_model"][name] == pytest.approx(mean)
    assert summary["recovery_percent"] == pytest.approx(92.5)


def test_recovery_by_measure_by_hand():
    scores = [
        {"minimal_pairs_accuracy": pairs, "fact_accuracy": facts}
        for pairs, facts in [(0.4, 0.3), (0.9, 0.3), (0.5, 0.3)]
    ]
    found = recovery_by_measure(*scores)
    assert found["minimal_pairs_accuracy"] == pytest.approx(-25)  # worse than guessing
    assert found["fact_accuracy"] is None  # the teacher knows no more than the baseline


def test_no_recovery_from_a_teacher_that_knows_nothing(summary_of):
    summary = summary_of(teacher=(3.0, 1.0, 0.2))
    assert summary["recovery_percent"] is None
    assert set(summary["recovery_percent_by_model"].values()) == {None}
    assert summary["recovery_percent_by_measure"]["distilled"]["fact_accuracy"] is None
    for words in ("pruned:", "distilled: ", "distilled ahead", "facts right"):
        assert not target(summary, words)["met"]
    assert target(summary, "distilled ahead")["got"] is None
    assert target(summary, "minimal pairs right")["met"]


def test_the_reduction_counts_one_embedding(summary_of):
    """Per layer 4·4 + 4·2 + 4·2 + 4·4 attention, 3·4·6 ffn, 2·4 norms: 128; beside them 32 + 4."""
    assert summary_of()["params_reduction_percent"] == pytest.approx(100 * 128 / (36 + 2 * 128))


def test_a_good_run_meets_every_target(summary_of):
    summary = summary_of()
    assert [row["met"] for row in summary["targets"]] == [True] * 5
    assert target(summary, "distilled ahead")["got"] == pytest.approx(92.5 - 60)
    assert target(summary, "facts right") == {
        "name": "teacher: facts right, %",
        "wanted": "≥ 90",
        "got": 100,
        "met": True,
    }


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"teacher": (3.0, 0.94, 1.0)}, "teacher: minimal pairs"),
        ({"teacher": (3.0, 1.0, 0.89)}, "teacher: facts"),
        ({"pruned": (30.0, 0.9, 0.9)}, "pruned:"),
        ({"distilled-seed1": (4.0, 0.8, 0.92)}, "distilled: share"),
    ],
)
def test_a_target_that_is_missed_is_the_only_one(summary_of, changes, missed):
    summary = summary_of(**changes)
    assert [row["name"] for row in summary["targets"] if not row["met"]] == [
        target(summary, missed)["name"]
    ]


def test_the_lead_is_over_the_better_control(summary_of):
    ahead = {f"from_scratch-seed{seed}": (2.0, 1.0, 1.0) for seed in (1, 2)}
    summary = summary_of(**ahead)
    lead = target(summary, "distilled ahead")
    assert lead["got"] == pytest.approx(92.5 - 100)
    assert not lead["met"]
    level = {f"label_trained-seed{seed}": SCORES[f"distilled-seed{seed}"] for seed in (1, 2)}
    lead = target(summary_of(**level), "distilled ahead")
    assert lead["got"] == pytest.approx(0)


def test_everything_else_comes_along(summary_of):
    summary = summary_of()
    assert summary["stages"] == [{"name": "prune", "wall_seconds": 1.5}]
    assert summary["seeds"] == [1, 2]
    assert summary["recovery_tokens"] == DemoConfig().recovery.tokens
    trials = summary["label_learning_rates"]
    assert [row["learning_rate"] for row in trials] == [1e-3, 2e-3]
    assert [row["validation_perplexity"] for row in trials] == pytest.approx([7, 6])
