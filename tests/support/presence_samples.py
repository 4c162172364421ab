"""Folders that the file system does not let a test look into."""

from pathlib import Path

import pytest

from repro.errors import UserError
from repro.filesystem import presence


def close(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the file system refuse to look into a folder, as one of mode 000 does for anybody but root."""
    mode = presence._mode

    def refuse(path: Path) -> int:
        if folder in path.parents:
            raise UserError(f"{path} cannot be accessed (Permission denied)")
        return mode(path)

    monkeypatch.setattr(presence, "_mode", refuse)
