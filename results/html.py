"""Self-contained HTML: everything escaped, no network, one style and one script for every page."""

import base64
import hashlib
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from results.layout import Table

_TEMPLATES = Environment(
    loader=PackageLoader("results", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(template: str, **content: Any) -> str:
    """Fill a template.

    The page carries a content security policy that admits its own script alone: what a name or a log line brings along
    can neither run nor load anything, should it ever get past the escaping.

    Args:
        template: Name of a file in `templates/`.
        content: What it shows; every text is escaped.
    """
    style, script = (_asset(name) for name in ("style.css", "sort.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    # Both are files of ours: `Markup` keeps their quotes and arrows as they are.
    return _TEMPLATES.get_template(template).render(
        style=Markup(style), script=Markup(script), policy=policy, **content
    )


def table_page(table: Table) -> str:
    """Give a table as a page of its own."""
    return page("table.html.j2", table=table)


def _asset(name: str) -> str:
    assert _TEMPLATES.loader is not None
    return _TEMPLATES.loader.get_source(_TEMPLATES, name)[0]
