"""One self-contained HTML page; all pages share ``base.html``, ``panel.html`` and ``style.css``."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from nemo_bielik import __version__
from nemo_bielik.report import svg


def render_page(template: str, context: Mapping[str, Any]) -> str:
    """Return the page that `template`, a path in the package, makes of `context`.

    The base wants ``headline``, ``key_figures`` (may be empty) and ``measures`` in the context. All
    text is escaped; a name that the context lacks raises `jinja2.UndefinedError`.
    """
    environment = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"mark": svg.legend_mark}
    shared = {"style": Markup(_read("report/style.css")), "version": __version__}
    return environment.get_template(template).render(context, **shared) + "\n"


def _read(name: str) -> str:
    return files("nemo_bielik").joinpath(name).read_text(encoding="utf-8")
