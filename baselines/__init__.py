"""Every row of the paper's tables, ours included, and the ablations.

A row is data: a framework's recipe (`repro.runs.frameworks`), what is masked (`masks`), and in an ablation what is
changed (`ablations`). None is a branch in code; what must be code beside the paper's own method are the competitors
that train something else: `adios` and `supervised`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from baselines import ablations, masks
from repro.errors import UserError, nearest
from repro.runs.choices import Framework, Strategy
from repro.runs.frameworks import FRAMEWORKS
from repro.runs.reading import build, nested, pinned
from repro.runs.run import Run

if TYPE_CHECKING:
    import torch

    from repro.data.splits import Images
    from repro.training.learner import Learner


@dataclass(frozen=True)
class Method:
    """One row: its title in the paper and how it differs from the default Run."""

    title: str
    settings: Mapping[str, Any]

    def but(self, title: str, changes: Mapping[str, Any]) -> "Method":
        """This row with some settings changed."""
        return Method(f"{self.title}, {title}", _merged(self.settings, changes))


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, `changes` winning key by key."""
    merged = nested(settings)
    for key, value in nested(changes).items():
        held = merged.get(key)
        merged[key] = _merged(held, value) if isinstance(held, Mapping) and isinstance(value, Mapping) else value
    return merged


def _block(framework: Framework) -> dict[str, Method]:
    """The rows on a contrastive framework: plain, and with each masking."""
    rows = {
        "": ("", masks.NONE),
        "+mscn": (" + MSCN", masks.MSCN),
        "+adios": (" + ADIOS", masks.ADIOS),
        "+ours-hp": (" + ours, high-pass", masks.HIGH_PASS),
        "+ours-blur": (" + ours, strong blur", masks.STRONG_BLUR),
        "+ours-mean": (" + ours, mean fill", masks.MEAN_FILL),
    }
    return {f"{framework}{name}": _row(framework, title, masking) for name, (title, masking) in rows.items()}


def _row(framework: Framework, title: str, masking: Mapping[str, Any]) -> Method:
    """A framework's recipe with a masking; all rows of a framework share its recipe and differ in the masking alone."""
    entry = FRAMEWORKS[framework]
    settings = {"framework": framework.value, **entry.recipe}
    return Method(f"{entry.title}{title}", _merged(settings, masking))


TABLE1: Mapping[str, Method] = {
    "supervised": _row(Framework.supervised, "", masks.NONE),
    **{name: row for framework, entry in FRAMEWORKS.items() if entry.model for name, row in _block(framework).items()},
}
"""The rows of tables 1 and 2."""

TABLE3: Mapping[str, Method] = {
    f"{name}@{branch}": TABLE1[name].but(f"{branch} masked", {"masking.branch": branch})
    for name in ("mocov2+ours-hp", "mocov2+ours-blur", "mocov2+ours-mean")
    for branch in ("key", "both")
}
"""The rows that table 3 adds; its `query` is table 1's row."""

ABLATIONS: Mapping[str, Method] = {
    name: TABLE1[ablation.row].but(ablation.title, ablation.settings) for name, ablation in ablations.ABLATIONS.items()
}

METHODS: Mapping[str, Method] = {**TABLE1, **TABLE3, **ABLATIONS}


def resolve(method: str, *layers: Mapping[str, Any], origin: str = "settings") -> Run:
    """A run of a method: its settings, then `layers`, later ones winning.

    Raises:
        UserError: an unknown method, key or value.
    """
    if method not in METHODS:
        raise UserError(f"unknown method '{method}'", mend=f"{nearest(method, METHODS)}; `salmask methods` lists them")
    return pinned(build([METHODS[method].settings, *layers, {"method": method}], origin=origin))


def build_learner(run: Run, images: "Images", device: "torch.device") -> "Learner":
    """What a run trains, competitors included; a `repro.training.learner.Build`.

    Raises:
        UserError: settings do not fit the data, the localizer or the number of processes.
    """
    # Imported here: tables and `salmask methods` read METHODS without torch.
    if run.framework is Framework.supervised:
        from baselines import supervised

        return supervised.build_learner(run, images, device)
    if run.masking.strategy is Strategy.learned:
        from baselines import adios

        return adios.build_learner(run, images, device)
    from repro.training import learner

    return learner.build_learner(run, images, device)
