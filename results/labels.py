"""The spelling of a method's name, the same in tables, plots, claims and pages: `MoCo v2 + ours, high-pass`."""

import re

from repro.runs.frameworks import FRAMEWORKS

MASKINGS = {
    "mscn": "MSCN",
    "adios": "ADIOS",
    "ours-hp": "ours, high-pass",
    "ours-blur": "ours, strong blur",
    "ours-mean": "ours, mean fill",
}
"""What follows the framework in a row's name -> how it is printed; "ours" is the paper's method."""
_MASKING = re.compile(rf"({'|'.join(map(re.escape, MASKINGS))})(?=$|[@-])")


def label(method: str) -> str:
    """Returns how a method is printed.

    Args:
        method: Its name, `FRAMEWORK[+MASKING][@BRANCH][-CHANGE]`.

    Returns:
        `MoCo v2 + ours, high-pass, key masked, no hard negative` of `mocov2+ours-hp@key-no-hard-negative`; a name of
        another form, as a method of somebody's own may have, as it is.
    """
    framework, plus, rest = method.partition("+")
    title = next((entry.title for name, entry in FRAMEWORKS.items() if name.value == framework), None)
    if title is None:
        return method
    masking = _MASKING.match(rest)
    printed = f"{title} + {MASKINGS[masking[1]]}" if masking else title + (f" + {rest}" if plus else "")
    behind = rest[masking.end() :] if masking else ""
    branch, dash, change = behind.partition("-")
    words = [f"{branch.removeprefix('@')} masked"] if branch else []
    # Between two words a space; `ratio0.25-0.45` keeps its hyphen.
    words += [re.sub(r"(?<=[a-z])-(?=[a-z])", " ", change)] if dash else []
    return ", ".join([printed, *words])
