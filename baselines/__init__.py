"""Every row of the paper's tables, ours included, and the ablations.

A row is data: a framework's recipe (`repro.settings.frameworks`), what is masked (`masks`), and for an ablation the
settings that it changes (`ablations`). No code branches on a row. Only the competitors that train another model than
the paper's method are code: `adios` (with its network in `unet`) and `supervised`.

Importing this package needs no torch: tables and launchers read `METHODS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from baselines import ablations, dose, masks
from repro.errors import UserError, nearest
from repro.settings.choices import Strategy
from repro.settings.frameworks import FRAMEWORKS
from repro.settings.reading import build, nested, pinned
from repro.settings.run import Run
from repro.settings.sections import Framework

if TYPE_CHECKING:
    import torch

    from repro.data.splits import Images
    from repro.training.learner import Learner


@dataclass(frozen=True)
class Method:
    """One row of the tables."""

    settings: Mapping[str, Any]
    """How the row differs from the default Run: nested sections, or dotted keys."""

    def but(self, changes: Mapping[str, Any]) -> "Method":
        """Returns this row with some settings changed.

        Args:
            changes: Nested sections, or dotted keys; they win over the row's own settings.
        """
        return Method(_merged(self.settings, changes))


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested settings in which `changes` win key by key; a section keeps the keys that they do not name."""
    merged = nested(settings)
    for key, value in nested(changes).items():
        earlier = merged.get(key)
        merged[key] = _merged(earlier, value) if isinstance(earlier, Mapping) and isinstance(value, Mapping) else value
    return merged


def _rows_on(framework: Framework) -> dict[str, Method]:
    """Returns the rows on a contrastive framework by name: plain, and with each masking."""
    rows = {
        "": masks.NONE,
        "+mscn": masks.MSCN,
        "+adios": masks.ADIOS,
        "+ours-hp": masks.HIGH_PASS,
        "+ours-blur": masks.STRONG_BLUR,
        "+ours-mean": masks.MEAN_FILL,
    }
    return {f"{framework}{suffix}": _row(framework, masking) for suffix, masking in rows.items()}


def _row(framework: Framework, masking: Mapping[str, Any]) -> Method:
    """Returns a framework's recipe with a masking.

    All rows on a framework go through here, so that they share its recipe and differ in the masking alone.
    """
    entry = FRAMEWORKS[framework]
    settings = {"framework": framework.value, **entry.recipe}
    return Method(_merged(settings, masking))


TABLE1: Mapping[str, Method] = {
    "supervised": _row(Framework.supervised, masks.NONE),
    # `supervised` and `external` name no contrastive model, so they have no row with a masking.
    **{
        name: row for framework, entry in FRAMEWORKS.items() if entry.model for name, row in _rows_on(framework).items()
    },
}
"""The rows of tables 1 and 2, in the tables' order."""

WITH_HARD_NEGATIVE: Mapping[str, Method] = {
    f"{name}@{branch}": TABLE1[name].but({"masking.branch": branch})
    for name in ("mocov2+ours-hp", "mocov2+ours-blur", "mocov2+ours-mean")
    for branch in ("key", "both")
}
"""The rows that mask another branch than the query, and keep the hard negative."""

TABLE3: Mapping[str, Method] = {
    **{
        f"{name}-no-hard-negative": row.but({"masking.hard_negative": False})
        for name, row in {
            **{name: TABLE1[name] for name in ("mocov2+ours-blur", "mocov2+ours-mean")},
            **WITH_HARD_NEGATIVE,
        }.items()
    },
    **WITH_HARD_NEGATIVE,
}
"""The rows that table 3 adds: the query, the key or both views masked, without a hard negative and with it.

The paper does not say which of the two its Table 3 shows. We take it to be without, so that the table is about the
branch alone, and run both. The rows with a masked query and a hard negative are table 1's, and high-pass without a hard
negative is an ablation.
"""

ABLATIONS: Mapping[str, Method] = {
    name: TABLE1[ablation.row].but(ablation.settings) for name, ablation in ablations.ABLATIONS.items()
}
"""The rows that no table of the paper has, each a changed row of table 1."""

DOSE: Mapping[str, Method] = {name: TABLE1[row.row].but(row.settings) for name, row in dose.DOSE.items()}
"""The rows of `salmask sweep saliency-dose`, each the headline row with another source of foreground."""

METHODS: Mapping[str, Method] = {**TABLE1, **TABLE3, **ABLATIONS, **DOSE}
"""Every row by the name under which `salmask pretrain` and sweeps know it."""


def resolve(method: str, *layers: Mapping[str, Any], origin: str = "settings") -> Run:
    """Builds the run of a method.

    Args:
        method: A name of `METHODS`.
        layers: Settings on top of the method's own (a sweep's, a file's, the command line's); later ones win.
        origin: Where the layers come from, for error messages.

    Returns:
        The run. If its localizer is a checkpoint, the SHA-256 of that file is part of it.

    Raises:
        UserError: A method, key or value is unknown, or a layer names another method or framework.
    """
    if method not in METHODS:
        raise UserError(f"unknown method '{method}'", mend=f"{nearest(method, METHODS)}; `salmask methods` lists them")
    row = build([METHODS[method].settings, {"method": method}])
    run = build([METHODS[method].settings, {"method": method}, *layers], origin=origin)
    # Other departures from the row are named beside its numbers; these two would make it another row.
    for key, of_row, wanted in (("method", row.method, run.method), ("framework", row.framework, run.framework)):
        if wanted != of_row:
            raise UserError(
                f"{origin}: {key}={wanted} contradicts the row {method}, whose {key} is {of_row}",
                mend=f"leave {key} out, or name the row that is meant",
            )
    return pinned(run)


def build_learner(run: Run, images: "Images", device: "torch.device") -> "Learner":
    """Builds what a run trains, competitors included; a `repro.training.learner.Build`.

    Args:
        run: Of any row.
        images: The training images.
        device: Where the model goes.

    Raises:
        UserError: Settings do not fit the data, the localizer or the number of processes.
    """
    # Imported here because tables and `salmask methods` read METHODS without torch.
    # Supervised comes first: it has no views to mask, so no masking can make it another learner.
    if run.framework is Framework.supervised:
        from baselines import supervised

        return supervised.build_learner(run, images, device)
    if run.masking.strategy is Strategy.learned:
        from baselines import adios

        return adios.build_learner(run, images, device)
    from repro.training import learner

    return learner.build_learner(run, images, device)
