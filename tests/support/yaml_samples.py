"""YAML files as a person would write them."""

from pathlib import Path

import yaml


def write_yaml(path: Path, content: object) -> str:
    """Write content as YAML, or a text as it is; returns the path as a command line has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)
