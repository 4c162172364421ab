"""What systems and editors leave beside somebody's data, told by its name."""

import re

_CLUTTER = re.compile(
    r"\..*|#.*#|.*~|.*\.(bak|orig|sw[op]|tmp)|thumbs\.db|ehthumbs\.db|desktop\.ini|icon\r", re.IGNORECASE
)
"""Files that systems and editors leave: hidden ones (`.DS_Store`, AppleDouble's `._x`), Windows' own, backups."""
_CLUTTER_FOLDERS = frozenset({"__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found", "@eaDir"})


def is_clutter(name: str, *, folder: bool = False) -> bool:
    """Returns whether a file or a folder is one that a system or an editor left, and nobody's data.

    Args:
        name: Its name, without a path.
        folder: Whether it is a folder, which may end as a backup does and be meant.
    """
    return name.startswith(".") or name in _CLUTTER_FOLDERS if folder else _CLUTTER.fullmatch(name) is not None
