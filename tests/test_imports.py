"""Heavy imports stay at the edge: light commands load none, and few files may name Megatron."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "megatron", "nemo", "nemo_run", "transformers", "modelopt")
ENGINE_PACKAGES = {"megatron", "nemo"}
LIGHT_STATEMENTS = {
    "package": "import nemo_bielik",
    "arch": "import nemo_bielik.arch, nemo_bielik.tensors, nemo_bielik.artifacts",
    "checkpoint": "import nemo_bielik.checkpoint, nemo_bielik.stages, nemo_bielik.files",
    "training settings": "import nemo_bielik.training",
    "launch": "import nemo_bielik.launch.local",
    "sites and jobs": "import nemo_bielik.launch.submit, nemo_bielik.launch.jobs",
    "launch check": "from nemo_bielik.cli import main; main(['launch', 'check', 'local'])",
    "preflight settings": "import nemo_bielik.preflight",
    "recipe": "from nemo_bielik.cli import main; main(['train', '--factory=tiny', '--dry-run'])",
    "help": "from nemo_bielik.cli import main; main(['--help'])",
    "unknown command": "from nemo_bielik.cli import main; main(['nothing'])",
    "plan": "from nemo_bielik.cli import main; main(['plan'])",
    "plan --json": "from nemo_bielik.cli import main; main(['plan', '--json'])",
    "plan --dry-run": "from nemo_bielik.cli import main; main(['plan', '--dry-run'])",
    "suites": "from nemo_bielik.cli import main; main(['suites', '--json'])",
    "evaluation settings": "import nemo_bielik.evaluate.config",
    "report": "import nemo_bielik.report.stage",
    "report --paper": "from nemo_bielik.cli import main; main(['report', '--paper'])",
    "recovery": "import nemo_bielik.recovery.stage, nemo_bielik.recovery.side_by_side",
    "methods": "from nemo_bielik.cli import main; main(['methods'])",
    "pruning settings": "import nemo_bielik.pruning.prune, nemo_bielik.pruning.score",
    "slicing": "import nemo_bielik.pruning.slice, nemo_bielik.pruning.verify",
    "cache settings": "import nemo_bielik.distill.cache_stage, nemo_bielik.distill.cache_plan",
    "distillation settings": "import nemo_bielik.distill.stage",
    "grpo settings": "import nemo_bielik.align.grpo, nemo_bielik.align.measure",
    "assistant data": "import nemo_bielik.data.tiny_polish.assistant",
    "alignment settings": "import nemo_bielik.align.sft, nemo_bielik.align.dpo",
    "search settings": "import nemo_bielik.search.stage, nemo_bielik.search.page",
    "search --plan": "from nemo_bielik.cli import main; "
    "main(['search', '--preset=paper', '--plan'])",
    "comparison settings": "import nemo_bielik.compare.stage",
    "bench": "import nemo_bielik.bench.stage, nemo_bielik.bench.summary",
    "bench --paper": "from nemo_bielik.cli import main; main(['bench', '--paper'])",
    "quantizing settings": "import nemo_bielik.quantize.stage, nemo_bielik.quantize.server_files",
    "plan --cards": "from nemo_bielik.cli import main; main(['plan', '--cards'])",
}


@pytest.mark.parametrize("statement", LIGHT_STATEMENTS.values(), ids=LIGHT_STATEMENTS.keys())
def test_light_commands_import_nothing_heavy(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


def sources() -> list[Path]:
    folders = (ROOT / "nemo_bielik", ROOT / "recipes", ROOT / "launch")
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def imported_modules(path_or_source: Path | str) -> set[str]:
    """Return the modules that a file imports, at its top or inside a function."""
    is_path = isinstance(path_or_source, Path)
    source = path_or_source.read_text(encoding="utf-8") if is_path else path_or_source
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def imported_packages(path_or_source: Path | str) -> set[str]:
    return {module.split(".")[0] for module in imported_modules(path_or_source)}


def may_import_engine(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    return parts[:2] in (("nemo_bielik", "megatron"), ("nemo_bielik", "nemo2")) or (
        path.stem.endswith("_mcore")
    )


def test_only_the_engine_room_imports_megatron_and_nemo() -> None:
    found = {
        str(path.relative_to(ROOT)): sorted(named)
        for path in sources()
        if not may_import_engine(path)
        if (named := imported_packages(path) & ENGINE_PACKAGES)
    }
    assert found == {}


def test_launch_never_imports_torch() -> None:
    for path in (ROOT / "launch").rglob("*.py"):
        assert "torch" not in imported_packages(path), path


def test_recipes_never_import_launch() -> None:
    for path in (ROOT / "recipes").rglob("*.py"):
        launchers = [m for m in imported_modules(path) if m.startswith("nemo_bielik.launch")]
        assert launchers == [], path


def test_the_walk_sees_every_kind_of_import() -> None:
    source = "import megatron.core as m\ndef f():\n    from nemo.x import y\nfrom . import nemo_run"
    assert imported_packages(source) == {"megatron", "nemo"}
    assert {path.name for path in sources()} >= {"cli.py", "local.py", "cpu.py"}
