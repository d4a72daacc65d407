"""The page of a comparison: drawings, a table of everything, and how it was made."""

from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from nemo_bielik import __version__
from nemo_bielik.compare import panels, story, tables
from nemo_bielik.compare.ranking import rank
from nemo_bielik.report import svg
from nemo_bielik.report.costs import command_line


def render(found: dict[str, Any]) -> str:
    """Return the page of `found`, the content of ``comparison.json``."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"mark": svg.legend_mark}
    source = (files("nemo_bielik.compare") / "template.html").read_text(encoding="utf-8")
    style = (files("nemo_bielik.report") / "style.css").read_text(encoding="utf-8")
    template = environment.from_string(source)
    return template.render(style=Markup(style), version=__version__, **_context(found)) + "\n"


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
