"""Every row of the paper's tables, ours included, and the ablations.

A row is data: a framework's recipe (`recipes`), what is masked (`masks`), and in an ablation what is changed
(`ablations`). None is a branch in code; what must be code beside the paper's own method are the competitors that train
something else: `adios` and `supervised`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from baselines import ablations, masks, recipes
from repro.errors import UserError, nearest
from repro.runs.choices import Framework, Strategy
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


def _block(framework: str, title: str, recipe: Mapping[str, Any]) -> dict[str, Method]:
    """The rows on a framework: plain, and with each masking."""
    return {
        framework: Method(title, _merged(recipe, masks.NONE)),
        f"{framework}+mscn": Method(f"{title} + MSCN", _merged(recipe, masks.MSCN)),
        f"{framework}+adios": Method(f"{title} + ADIOS", _merged(recipe, masks.ADIOS)),
        f"{framework}+ours-hp": Method(f"{title} + ours, high-pass", _merged(recipe, masks.HIGH_PASS)),
        f"{framework}+ours-blur": Method(f"{title} + ours, strong blur", _merged(recipe, masks.STRONG_BLUR)),
        f"{framework}+ours-mean": Method(f"{title} + ours, mean fill", _merged(recipe, masks.MEAN_FILL)),
    }


TABLE1: Mapping[str, Method] = {
    "supervised": Method("Supervised", _merged(recipes.SUPERVISED, masks.NONE)),
    **_block("mocov2", "MoCo v2", recipes.MOCOV2),
    **_block("simclr", "SimCLR", recipes.SIMCLR),
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
        raise UserError(f"unknown method '{method}'{nearest(method, METHODS)}; mend: `salmask methods` lists them")
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
