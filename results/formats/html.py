"""HTML pages, made of the templates of this room."""

from collections.abc import Sequence
from typing import Any

from repro import html
from repro.quantities import number_text
from results.formats.layout import Table


def page(template: str, *, extras: Sequence[str] = (), **content: Any) -> str:
    """Fills a template of this room.

    Args:
        template: Name of a file in `results/formats/templates`.
        extras: As in `repro.html.page`.
        content: Variables of the template; texts are escaped. `number_text`, which spells all numbers, is added.

    Returns:
        A self-contained page, as `repro.html.page` makes it.
    """
    return html.page(template, package="results.formats", extras=extras, number_text=number_text, **content)


def table_page(table: Table) -> str:
    """Returns a table as a page of its own."""
    return page("table.html.j2", table=table)
