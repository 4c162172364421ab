"""The commands that a page shows its reader."""

import re
import shlex


def commands_in(text: str) -> list[str]:
    """The lines that a reader may copy, from code blocks and inline code; those with a `…` or `|` are left out."""
    lines = []
    for block in re.findall(r"^```(?:bash|console|)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines += block.replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(r"`((?:salmask|make|torchrun) [^`]+)`", prose.replace("\n", " "))
    stripped = [re.sub(r"\s+#\s.*", "", line).strip() for line in lines]
    return [line for line in stripped if "…" not in line and not re.search(r"\|", line)]


def words_of(line: str) -> list[str] | None:
    """The words after `salmask`; None if the line calls another program."""
    line = line.replace("torchrun --nproc-per-node 4 -m repro.cli", "salmask")
    return shlex.split(line)[1:] if line.split()[:1] == ["salmask"] else None
