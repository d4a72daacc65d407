"""A bench for other pages: its headline figures from the directory it wrote."""

from pathlib import Path
from typing import Any

from nemo_bielik.artifact_files import explain_fields, load_json
from nemo_bielik.bench.stage import RESULTS_NAME
from nemo_bielik.manifest import MANIFEST_NAME, Manifest
from nemo_bielik.stages import work_directory


def summary(bench_directory: Path) -> dict[str, Any]:
    """Return what a page shows of a bench, finished or partial.

    Keys: ``complete``, ``failure`` (a line or None), ``models`` (role → name), ``fingerprints``
    (role → the hash of its directory, None for a model behind an address), ``machine``, ``server``,
    and ``cases``, each with ``concurrency``, ``prompt_tokens``, ``output_tokens``,
    ``models`` (role → ``output_tokens_per_second`` and p50/p90/p99 of ``ttft_ms``, ``tpot_ms``,
    ``itl_ms``, ``request_latency_ms``), ``ratios`` (figure → median, lowest, highest of student ÷
    teacher), ``roofline``, ``energy`` (role → figures or None) and ``notes``. Raises `DataError` if
    there is no bench.
    """
    path = Path(bench_directory) / RESULTS_NAME
    partial = work_directory(Path(bench_directory)) / RESULTS_NAME
    if not path.is_file() and partial.is_file():
        path = partial
    found = load_json(path, "bench")
    has_manifest = (path.parent / MANIFEST_NAME).is_file()
    hashes = Manifest.load(path.parent).inputs if has_manifest else {}
    with explain_fields("bench", path):
        machine = found["environment"]["machine"]
        gpus = [gpu["name"] for gpu in machine["gpus"]]
        servers = found["environment"]["servers"].values()
        return {
            "complete": found["complete"],
            "failure": found["failure"],
            "models": {role: one["name"] for role, one in found["models"].items()},
            "fingerprints": {
                role: None if one.get("url") else hashes.get(role)
                for role, one in found["models"].items()
            },
            "machine": ", ".join(gpus) or f"{machine['cores']} cores of {machine['cpu']}",
            "server": " ".join(next(((s["kind"], s["version"]) for s in servers), ())) or None,
            "cases": [_case(case) for case in found["cases"]],
        }


def _case(case: dict[str, Any]) -> dict[str, Any]:
    models = {role: dict(figures) for role, figures in case["models"].items()}
    energy = {role: figures.pop("energy") for role, figures in models.items()}
    for figures in models.values():
        figures.pop("rounds")
    return case | {"models": models, "energy": energy}
