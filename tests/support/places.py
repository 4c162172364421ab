"""Where the repository's own files lie."""

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "examples"
REPRODUCED = EXAMPLES / "reproduced"
GOLDEN = TESTS / "golden"
