"""Recognises by their names the files that systems and editors leave among somebody's data."""

import re

_CLUTTER = re.compile(
    r"\..*|#.*#|.*~|.*\.(bak|orig|sw[op]|tmp)|thumbs\.db|ehthumbs\.db|desktop\.ini|icon\r", re.IGNORECASE
)
"""Names of such files: hidden ones (`.DS_Store`, AppleDouble's `._x`), Windows' own, backups."""
_CLUTTER_FOLDERS = frozenset({"__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found", "@eaDir"})


def is_clutter(name: str, *, folder: bool = False) -> bool:
    """Returns whether a system or an editor left a file or folder, so that it is nobody's data.

    Args:
        name: Its name, without a path.
        folder: Whether it is a folder. A folder with a name like a backup's (`x.bak`) may well be data.
    """
    return name.startswith(".") or name in _CLUTTER_FOLDERS if folder else _CLUTTER.fullmatch(name) is not None
