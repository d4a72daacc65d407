"""The page of a comparison: drawings, a table of everything, and how it was made."""

from typing import Any

from nemo_bielik.compare import panels, story, tables
from nemo_bielik.compare.ranking import rank
from nemo_bielik.report.costs import command_line
from nemo_bielik.report.html import render_page


def render(found: dict[str, Any]) -> str:
    """Return the page of `found`, the content of ``comparison.json``."""
    return render_page("compare/template.html", _context(found))


def _context(found: dict[str, Any]) -> dict[str, Any]:
    ranking = rank(found)
    drawn = [panels.perplexity_panel(found, ranking)] if ranking.by_share else []
    return {
        "model": found["model"]["name"],
        "headline": story.headline(ranking),
        "key_figures": tables.key_figures(found),
        "kept": panels.kept_panel(ranking),
        "findings": story.tell(found, ranking),
        "panels": [*drawn, panels.size_panel(found, ranking)],
        "costs": [panels.cost_panel(ranking), panels.memory_panel(ranking)],
        "original": tables.original(found),
        "rows": tables.rows(ranking),
        "command": command_line("compare-methods", found["settings"]),
        "measures": tables.definitions(found, ranking),
    }
