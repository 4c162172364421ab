"""How a method is named for people, the same everywhere: `MoCo v2 + ours (high-pass)` for `mocov2+ours-hp`."""

import re

from repro.settings.frameworks import FRAMEWORKS
from repro.settings.method_name import MASKINGS, MethodName

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
"""End of an ablation's name -> its words; any other end stays as it is, with spaces for its hyphens."""
_FOREGROUND = re.compile(r"(|hard-|query-)by-(.+)")
"""An end that names the source of the foreground, as in the rows of `salmask sweep saliency-dose`."""
_WHOSE = {"": "foreground", "hard-": "hard negatives", "query-": "query"}


def label(method: str) -> str:
    """Returns how a method is printed.

    Args:
        method: Its name, `FRAMEWORK[+MASKING][@BRANCH][-CHANGE]`.

    Returns:
        `MoCo v2 + ours (high-pass), key masked, no hard negative` for `mocov2+ours-hp@key-no-hard-negative`. A name of
        another form, such as a user's own method may have, is returned unchanged.
    """
    return ", ".join(label_parts(method))


def change_label(method: str) -> str:
    """Returns the part of a method's label after framework and masking: `key masked, no hard negative`.

    Args:
        method: Its name.
    """
    return ", ".join(label_parts(method)[1:])


def label_parts(method: str, *, branch: str = "") -> tuple[str, ...]:
    """Returns what `label` joins: framework and masking, the branch, what is changed.

    Args:
        method: Its name.
        branch: The branch that it masks, which is included if the name omits it as the usual one.
    """
    return tuple(filter(None, _parts(method, branch)))


def _parts(method: str, branch: str) -> list[str]:
    """Returns the parts of a label, of which all but the first may be empty."""
    name = MethodName.parse(method)
    title = next((entry.title for framework, entry in FRAMEWORKS.items() if framework.value == name.framework), None)
    if title is None:
        return [method]
    if not name.masking:
        if name.change in CHANGES:
            return [title, CHANGES[name.change]]
        _, plus, rest = method.partition("+")
        return [title + (f" + {rest}" if plus else "")]
    masked = name.branch or branch
    return [f"{title} + {MASKINGS[name.masking]}", f"{masked} masked" if masked else "", _words(name.change)]


def _words(change: str) -> str:
    """Returns the words of what an ablation changes."""
    if foreground := _FOREGROUND.fullmatch(change):
        return f"{_WHOSE[foreground[1]]} by {foreground[2]}"
    # Between two words a space; a range of numbers keeps its hyphen.
    return CHANGES.get(change) or re.sub(r"(?<=[a-z])-(?=[a-z])", " ", change)
