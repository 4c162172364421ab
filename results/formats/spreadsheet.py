"""Tables for spreadsheets, which take some texts for formulas."""

from typing import Any

import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What begins a formula in a spreadsheet, which may call programs."""


def harmless(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns a frame of whose texts none is a formula to a spreadsheet: a quotation mark stands before such.

    Args:
        frame: Of any columns; numbers are as they were.
    """

    def quoted(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value

    texts = {}
    for name, column in frame.items():
        if isinstance(column.dtype, pd.CategoricalDtype):  # each different text once
            labels = list(map(quoted, column.cat.categories))
            if labels != list(column.cat.categories):
                texts[name] = column.astype(object).map(quoted)
        elif column.dtype == object or isinstance(column.dtype, pd.StringDtype):
            texts[name] = column.map(quoted)
    return frame.assign(**{str(name): column for name, column in texts.items()})
