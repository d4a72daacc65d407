"""Every recipe called ``tiny`` for real, in one directory: of few steps, each on what others left.

The chain goes first, as jobs of this machine under torchrun, its teacher on two ranks; it leaves
what `make demo` does, where the other recipes start. Stages that the chain does not have are jobs
under torchrun too; the rest run in lanes, which are faster.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik import cli
from nemo_bielik.arch import ModelArch
from nemo_bielik.checkpoint import Checkpoint, copy_tokenizer
from nemo_bielik.commands import find_command, load
from nemo_bielik.data.chat_template import CHAT_TEMPLATE, CHAT_TEMPLATE_NAME
from nemo_bielik.data.tiny_polish.assistant import AssistantDataConfig, make_assistant_data
from nemo_bielik.data.tokenize import TokenizeConfig, tokenize
from nemo_bielik.launch.site import LocalSite
from nemo_bielik.launch.submit import submit
from nemo_bielik.launch.tasks import Task, with_absolute_paths
from nemo_bielik.launch.workers import LaneWorkers
from nemo_bielik.manifest import MANIFEST_NAME
from nemo_bielik.options import parse_config
from nemo_bielik.recipes.catalog import RECIPES, find_recipe
from nemo_bielik.recipes.tiny_stages import DEMO, RUN
from nemo_bielik.runs import DISTILLED, INSTRUCTIONS, PREFERENCES, TEACHER, Run
from nemo_bielik.search.stage import TARGETS, Search, run_search

PARTS = ("train", "recovery", "calibration", "validation", "test")
WORLD = {"people": 20, "cloze_items": 20, "pairs_per_phenomenon": 4}
WORLD |= {f"{part}_documents": 200 for part in PARTS}
SMALL_WORLD = [*(f"world.{name}={value}" for name, value in WORLD.items()), "vocab_size=400"]
FEW_STEPS = ["iters=2", "eval_interval=2", "eval_iters=1", "optim.warmup_iters=1"]
#: Beside a teacher of two steps a student has nothing to learn: at the recipe's rate all diverge.
SEARCH = [f"recovery.{word}" for word in ("iters=8", "optim.max_lr=1e-5", "optim.min_lr=1e-6")]
QUANTIZED = ["sequence_length=64", "calibration_tokens=512", "measured_tokens=512"]
CONVERSATIONS = 100
JOBS = ["prepare", "initialize", "train", "score", "prune", "distill"]
JOBS += ["evaluate-teacher", "evaluate-pruned", "evaluate-distilled", "report"]
#: What is changed of every other recipe, in the order in which they run.
CHANGES = {
    "prepare": SMALL_WORLD,
    "train": FEW_STEPS,
    "score": ["samples=16"],
    "prune": [],
    "cache-teacher": ["iters=2", "eval_iters=1"],
    "distill": FEW_STEPS,
    "evaluate": [],
    "quantize": ["all=false", "formats=[Q8_0,fp8]", *QUANTIZED],
    "search": [*SEARCH, *(f"recovery.{word}" for word in FEW_STEPS[1:])],
    "sft": ["epochs=1", "optim.warmup_iters=1"],
    "reference": [],
    "dpo": ["optim.warmup_iters=1"],
}
#: Stages of the engine that are no job of the chain.
UNDER_TORCHRUN = ("cache-teacher", "sft", "reference", "dpo")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def demo(home: Path) -> Run:
    """The chain of the tiny recipe, run by NeMo-Run's local executor, where a demo would lie."""
    site = home / "site.toml"
    site.write_text(
        f"[here]\nkind = 'local'\nranks = 'torchrun'\njob_directory = '{home / 'jobs'}'\n"
    )
    run = Run(home / DEMO.root)
    words = [f"--output={run.root}", f"--site={site}", "--executor=here", "--job-name=tiny"]
    steps = [f"{part}.{word}" for part in ("teacher", "recovery") for word in FEW_STEPS]
    asked = ["pipeline", "--factory=tiny", *words, *SMALL_WORLD, *steps, "score_samples=16"]
    assert cli.main(asked) == 0
    return run


def test_the_chain_ran_as_one_experiment_on_two_ranks(demo: Run, home: Path, capfd: Any) -> None:
    assert "</html>" in demo.report.read_text("utf-8")
    results = json.loads((demo.evaluation(DISTILLED) / "results.json").read_text())
    assert results["perplexity"] > 1
    assert cli.main(["launch", "status", "tiny", f"--site={home / 'site.toml'}"]) == 0
    states = [line.split()[:2] for line in capfd.readouterr().out.splitlines()]
    assert states == [[label, "SUCCEEDED"] for label in JOBS]
    texts = {label: executor(home, label) for label in JOBS}
    assert all("Torchrun" in text for text in texts.values())
    assert "ntasks_per_node: 2" in texts["train"]


def test_every_other_tiny_recipe_runs_on_what_the_others_left(
    demo: Run, home: Path, lanes: Any
) -> None:
    assert {"pipeline", *CHANGES} == {r.stage for r in RECIPES if r.name == "tiny"}
    make_conversations(home, demo)
    site = LocalSite(ranks="torchrun", job_directory=home / "jobs")
    made: dict[str, Any] = {}
    for stage, changes in CHANGES.items():
        command = find_command(stage)
        recipe = find_recipe(stage, "tiny")()
        config = parse_config(load(command.config), changes, f"bielik {stage}", recipe)
        made[stage] = config = with_absolute_paths(config, home)
        if stage in UNDER_TORCHRUN:
            submit([Task(stage, config)], site, stage)
            assert "Torchrun" in executor(home, stage)
        elif stage == "search":
            run_search(Search(config), LaneWorkers(lanes, TARGETS))
        elif stage == "prepare":
            load(command.function)(config)
        else:
            lanes.run(command.function, config)
        if stage not in ("search", "prepare"):  # which write many directories
            assert (config.output / MANIFEST_NAME).is_file(), stage
    run = Run(home / RUN.root)
    assert run.tokens("calibration").is_dir() and made["train"].parallel.processes == 2
    assert arch(made["dpo"].output) == arch(made["prune"].output) != arch(demo.model(TEACHER))
    assert arch(run.model(TEACHER)) == arch(demo.model(TEACHER))
    found = json.loads((made["search"].output / "search.json").read_text())
    assert len(found["candidates"]) == len(made["search"].candidates)


def executor(home: Path, job: str) -> str:
    """What NeMo-Run has written down of a job's executor."""
    (found,) = (home / "jobs").rglob(f"{job}_executor.yaml")
    return found.read_text()


def arch(model: Path) -> ModelArch:
    return Checkpoint.open(model).arch.replace(name="")


def make_conversations(home: Path, demo: Run) -> None:
    """What the recipes of alignment find: a chat template, and tokens of the world's own data."""
    run, data = Run(home / RUN.root), home / "data"
    make_assistant_data(
        AssistantDataConfig(world=demo.world, output=data, corrections=100, riddles=100)
    )
    tokenizer = run.root / "chat-tokenizer"
    tokenizer.mkdir(parents=True)
    copy_tokenizer(demo.model(TEACHER), tokenizer)
    (tokenizer / CHAT_TEMPLATE_NAME).write_text(CHAT_TEMPLATE, encoding="utf-8")
    for name in (INSTRUCTIONS, PREFERENCES):
        lines = (data / f"{name}.jsonl").read_text("utf-8").splitlines()[:CONVERSATIONS]
        (text := home / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        tokenize(TokenizeConfig(inputs=[text], tokenizer=tokenizer, output=run.tokens(name)))
