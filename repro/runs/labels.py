"""How a method's name is spelt for people, the same everywhere: `MoCo v2 + ours (high-pass)` of `mocov2+ours-hp`."""

import re

from repro.runs.frameworks import FRAMEWORKS

MASKINGS = {
    "mscn": "MSCN",
    "adios": "ADIOS",
    "ours-hp": "ours (high-pass)",
    "ours-blur": "ours (strong blur)",
    "ours-mean": "ours (mean fill)",
}
"""What follows the framework in a row's name -> its words; "ours" is the paper's method, and nothing else."""
CHANGES = {
    "random": "patches at random",
    "no-masks": "filter alone",
    "rho1": "ρ = 1",
    "rho4": "ρ = 4",
    "ratio0.25-0.45": "25 to 45 % masked",
    "ratio0.45-0.65": "45 to 65 % masked",
    "no-focal": "no focal masks",
    "localizer-efficientnet": "localizer EfficientNet-Lite0",
    "localizer-random": "localizer untrained",
    "localizer-checkpoint": "localizer from a checkpoint",
    "released": "as released",
    "anchor-both": "keys meet the hard negative too",
    "stopgrad": "hard negative without gradient",
    "queue16k": "queue of 16,384 keys",
    "script": "values of the authors' script",
    "all-masks": "every mask at each step",
}
"""What an ablation's name ends with -> its words; another end stands as it is, with spaces for its hyphens."""
_MASKING = re.compile(rf"({'|'.join(map(re.escape, MASKINGS))})(?=$|[@-])")
_FOREGROUND = re.compile(r"(|hard-|query-)by-(.+)")
"""An end that tells whose foreground is used, as of the rows of `salmask sweep saliency-dose`."""
_WHOSE = {"": "foreground", "hard-": "hard negatives", "query-": "query"}


def label(method: str, *, branch: str = "") -> str:
    """Returns how a method is printed.

    Args:
        method: Its name, `FRAMEWORK[+MASKING][@BRANCH][-CHANGE]`.
        branch: The branch that it masks, to be said where the name leaves it out because it is the usual one.

    Returns:
        `MoCo v2 + ours (high-pass), key masked, no hard negative` of `mocov2+ours-hp@key-no-hard-negative`; a name of
        another form, as a method of somebody's own may have, as it is.
    """
    framework, plus, rest = method.partition("+")
    title = next((entry.title for name, entry in FRAMEWORKS.items() if name.value == framework), None)
    if title is None:
        return method
    masking = _MASKING.match(rest)
    if masking is None:
        return f"{title}, {CHANGES[rest]}" if rest in CHANGES else title + (f" + {rest}" if plus else "")
    named_branch, _, change = rest[masking.end() :].partition("-")
    masked = named_branch.removeprefix("@") or branch
    words = [f"{title} + {MASKINGS[masking[1]]}", f"{masked} masked" if masked else "", _words(change)]
    return ", ".join(filter(None, words))


def _words(change: str) -> str:
    """Returns the words of what an ablation changes."""
    if foreground := _FOREGROUND.fullmatch(change):
        return f"{_WHOSE[foreground[1]]} by {foreground[2]}"
    # Between two words a space; a range of numbers keeps its hyphen.
    return CHANGES.get(change) or re.sub(r"(?<=[a-z])-(?=[a-z])", " ", change)
