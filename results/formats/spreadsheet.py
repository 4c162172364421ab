"""Makes tables safe for spreadsheets, which execute some texts as formulas."""

from typing import Any

import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a formula, by which a spreadsheet may call programs."""


def harmless(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns a frame whose texts no spreadsheet takes for formulas: an apostrophe is put before such texts.

    Args:
        frame: Any columns; numbers stay as they are.
    """

    def quoted(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value

    texts = {}
    for name, column in frame.items():
        if isinstance(column.dtype, pd.CategoricalDtype):  # checks each different text once
            labels = list(map(quoted, column.cat.categories))
            if labels != list(column.cat.categories):
                texts[name] = column.astype(object).map(quoted)
        elif column.dtype == object or isinstance(column.dtype, pd.StringDtype):
            texts[name] = column.map(quoted)
    return frame.assign(**{str(name): column for name, column in texts.items()})
