"""What BFCL wrote, read as a suite: a category is a task, an entry an item.

Format: bfcl-eval 2026.3.23, ``eval_runner_helper.save_eval_results``: a header, then the entries
that failed.
"""

from pathlib import Path

from nemo_bielik.data.text import read_records
from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.suites.external import External, one_model, text
from nemo_bielik.paper.parts import bfcl_categories

BFCL = "bfcl"
#: BFCL reports how scores vary with the prompt's format; that is no score of the model's.
_NOT_SCORED = "format_sensitivity"
#: Memory entries are filled by conversations that are in the results and are not scored.
_PREREQUISITE = "_prereq"


#: Entries of each category: ``utils.load_dataset_entry`` of that version, without prerequisites.
_SIZES = {
    "simple_python": 400,
    "simple_java": 100,
    "simple_javascript": 50,
    "irrelevance": 240,
    "multiple": 200,
    "parallel": 200,
    "parallel_multiple": 200,
    "live_simple": 258,
    "live_multiple": 1053,
    "live_parallel": 16,
    "live_parallel_multiple": 24,
    "live_irrelevance": 884,
    "live_relevance": 16,
    "multi_turn_base": 200,
    "multi_turn_miss_func": 200,
    "multi_turn_miss_param": 200,
    "multi_turn_long_context": 200,
    "memory_kv": 155,
    "memory_vector": 155,
    "memory_rec_sum": 155,
    "web_search_base": 100,
    "web_search_no_snippet": 100,
}


def read_bfcl(project: Path, model: str | None) -> External:
    """Return BFCL's categories as tasks, an item an entry, from `project`, its project root.

    The suite's own figure counts the report's seven categories, where any of them was run. Raises
    `DataError` for a directory without scores, several models of which none is named, or scores
    that do not fit the results.
    """
    scores = sorted((project / "score").glob("*/**/*_score.json"))
    root = project / "score"
    name = one_model({path.relative_to(root).parts[0] for path in scores}, model, project, BFCL)
    found = External(BFCL, name)
    versions = set()
    for path in scores:
        place = path.relative_to(root)
        version, category = _version_and_category(path)
        if place.parts[0] != name or category == _NOT_SCORED:
            continue
        result = project / "result" / place.with_name(path.name.replace("_score.", "_result."))
        group = " ".join(place.parts[1:-1]).replace("_", " ")
        entries = _entries(path, result)
        found.add(category, "acc", entries, language="en", category=group, dataset=BFCL)
        versions.add(version)
    if len(versions) != 1:
        raise DataError(f"{root}: holds scores of {len(versions)} versions of BFCL, expected one")
    # its files name the benchmark's version and not the package's; a name decides the prompts
    found.version = f"{versions.pop()}, prompts of {name}, package version not told"
    found.limit = _limit(found)
    found.count_only(bfcl_categories())
    return found


def _limit(found: External) -> str | None:
    """Say which categories were run in part, as ``bfcl evaluate --partial-eval`` allows."""
    parts = [
        f"{task['items']} of {_SIZES[name]} entries of {name}"
        for name, task in found.tasks.items()
        if task["items"] < _SIZES.get(name, 0)
    ]
    return "; ".join(parts) or None


def _version_and_category(score: Path) -> tuple[str, str]:
    """Split ``BFCL_v4_live_simple_score.json`` into version and category."""
    parts = score.name.removesuffix("_score.json").split("_", 2)
    if len(parts) < 3:
        raise DataError(f"{score}: its name is not BFCL's, such as BFCL_v4_live_simple_score.json")
    bfcl, number, category = parts
    return f"{bfcl}_{number}", category


def _entries(score: Path, result: Path) -> dict[str, float]:
    """Return 1 for every entry that was right and 0 for every other."""
    records = list(read_records(score)) or [(str(score), {})]
    (_, header), *failed = records
    ids = [text(where, record, "id") for where, record in read_records(result)]
    asked = [entry for entry in ids if _PREREQUISITE not in entry]
    wrong = {text(where, record, "id") for where, record in failed}
    counted = (header.get("total_count"), header.get("correct_count"))
    if counted != (len(asked), len(asked) - len(wrong)) or not wrong <= set(asked):
        raise DataError(
            f"{score}: counts {counted[1]} of {counted[0]} right, {result} has {len(asked)} "
            f"entries of which {len(wrong)} failed; run `bfcl evaluate` again on all results"
        )
    return {entry: float(entry not in wrong) for entry in asked}
