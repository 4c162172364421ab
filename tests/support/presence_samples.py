"""Folders of which the file system does not tell what stands in them."""

from pathlib import Path

import pytest

from repro import presence
from repro.errors import UserError


def close(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the file system refuse to tell what is in a folder, as one of mode 000 does to anybody but root."""
    mode = presence._mode

    def refuse(path: Path) -> int:
        if folder in path.parents:
            raise UserError(f"{path} cannot be accessed (Permission denied)")
        return mode(path)

    monkeypatch.setattr(presence, "_mode", refuse)
