"""Self-contained HTML: everything escaped, no network, one style and one script for every page."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def page(template: str, *, package: str = "repro", extras: Sequence[str] = (), **content: Any) -> str:
    """Returns a page: a template filled with content.

    The page carries a content security policy that admits its own script alone: what a name or a log line brings along
    can neither run nor load anything, should it ever get past the escaping.

    Args:
        template: Name of a file in the package's `templates/`; it may extend `_page.html.j2` of `repro/templates/`.
        package: The package that the template belongs to.
        extras: Names of further `NAME.css` and `NAME.js` beside the template, put after those of every page.
        content: What the page shows, by the names that the template has for it; every text is escaped.
    """
    templates = _templates(package)
    style = "".join(_asset(templates, f"{name}.css") for name in ("style", *extras))
    script = "".join(_asset(templates, f"{name}.js") for name in ("sort", *extras))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    # Both are our own files, and `Markup` exempts them from escaping. With an escaped character, the script would not
    # match its hash, and a browser would not run it.
    return templates.get_template(template).render(style=Markup(style), script=Markup(script), policy=policy, **content)


def data_uri(content: bytes, kind: str) -> str:
    """Returns a file as a `data:` URI, so that a page needs no second file.

    Args:
        content: The file's content.
        kind: Its media type, for example `image/png`.
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@cache
def _templates(package: str) -> Environment:
    """Returns the environment of a package's templates, in which this package's own are found too."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(name, "templates") for name in dict.fromkeys((package, "repro"))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(templates: Environment, name: str) -> str:
    # Its source, not a rendering: braces of CSS and JavaScript are not a template's.
    assert templates.loader is not None
    return templates.loader.get_source(templates, name)[0]
