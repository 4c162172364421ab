"""Compares runs: the settings in which two differ, and in which a run departs from its method's row.

The settings are not listed here: they are the fields of the dataclasses in `repro.settings.sections` that are part of
the identity, so that a new field is compared as soon as it exists. Only which settings play a part in which runs cannot
be read from the dataclasses; `PARTS` says so.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

from repro.settings.choices import Guidance, MapOf, Optimizer, Schedule, Source, Strategy
from repro.settings.departures import DATA, Departure, shown_value
from repro.settings.frameworks import FRAMEWORKS
from repro.settings.identity import Smaller, counted_settings, plain, value_of
from repro.settings.reading import build
from repro.settings.run import Run
from repro.settings.sections import Framework, RunSettings


class Setting(NamedTuple):
    """One setting of a run that is part of its identity."""

    value: Any
    """In YAML's own types."""
    smaller: Smaller | None
    """Returns whether one value makes a run smaller than another (`identity.size`); None: it is no size."""


def settings(run: Run) -> dict[str, Setting]:
    """Returns every setting of a run's identity except its seed, by `section.key`.

    A file's path is left out if the hash of its content is known.
    """
    return {
        counted.name: Setting(plain(value_of(counted.name)(run)), counted.smaller)
        for counted in counted_settings(type(run))
        if counted.name != "seed" and not counted.is_replaced(run)
    }


def _hard_negative(run: RunSettings) -> bool:
    return run.masks and run.masking.hard_negative


def _high_pass(run: RunSettings) -> bool:
    return run.masking.strategy is Strategy.high_pass


def _learned(run: RunSettings) -> bool:
    return run.masking.strategy is Strategy.learned


PARTS: dict[str, Callable[[RunSettings], bool]] = {
    # Settings of a framework's own model; supervised learning has no embedding.
    "moco.": lambda run: run.framework is Framework.mocov2,
    "simclr.": lambda run: run.framework is Framework.simclr,
    "imported.": lambda run: run.framework is Framework.external,
    "encoder.dim": lambda run: bool(FRAMEWORKS[run.framework].model),
    # Weights and anchors of a hard negative that is not made.
    "moco.hard_negative": _hard_negative,
    "simclr.hard_negative": _hard_negative,
    "masking.hard_ratio": _hard_negative,
    "masking.hard_noise_std": _hard_negative,
    "fidelity.hard_negative": _hard_negative,
    # Without masks, no rate, branch or switch of masking matters; learned masks have settings of their own.
    "masking.guidance": lambda run: run.masks,
    "masking.branch": lambda run: run.masks,
    "masking.hard_negative": lambda run: run.masks,
    "masking.ratio": lambda run: run.masks,
    "fidelity.": lambda run: run.masks,
    "adios.": _learned,
    # Noise, focal windows, channel-wise patches and the cap are high-pass's (`masking.strategies.HighPass`).
    "masking.focal_probability": _high_pass,
    "masking.spatial_share": _high_pass,
    "masking.noise_std": _high_pass,
    "masking.noise_area": _high_pass,
    "masking.hard_noise": _high_pass,
    "fidelity.noise": _high_pass,
    "fidelity.cap": _high_pass,
    # Only counts that are rounded as released can be negative (`masking.patches.patch_counts`).
    "fidelity.negative_count": lambda run: run.fidelity.counts is Source.released,
    # Random patches need no localizer, and patches by true masks need no network.
    "localizer.": lambda run: run.guided,
    "localizer.network": lambda run: run.needs_localizer,
    "localizer.weights": lambda run: run.needs_localizer,
    "localizer.sha256": lambda run: run.needs_localizer,
    "localizer.map": lambda run: run.needs_localizer,
    # Beside a network's foreground, true masks only serve to measure it, and change nothing.
    "data.masks": lambda run: run.needs_true_masks,
    "localizer.relax": lambda run: any(source.is_read_by_rule for source in run.saliency_sources),
    "localizer.image_side": lambda run: run.needs_localizer and run.localizer.map is MapOf.image,
    "fidelity.saliency_map": lambda run: run.masking.guidance is Guidance.saliency,
    # Photographs are not drawn.
    "data.scenes.": lambda run: run.data.drawn,
    "data.scenes.context": lambda run: run.data.scenes.grounds > 0,
    # The occlusion network of ADIOS is optimised by LARS whatever the encoder is.
    "optimization.lars_eta": lambda run: run.optimization.optimizer is Optimizer.lars or _learned(run),
    "optimization.step_share": lambda run: run.optimization.schedule is Schedule.steps,
    # The strength or kind of a change that has probability 0.
    "augmentation.brightness": lambda run: run.augmentation.jitter_probability > 0,
    "augmentation.contrast": lambda run: run.augmentation.jitter_probability > 0,
    "augmentation.saturation": lambda run: run.augmentation.jitter_probability > 0,
    "augmentation.hue": lambda run: run.augmentation.jitter_probability > 0,
    "augmentation.blur": lambda run: run.augmentation.blur_probability > 0,
}
"""Prefix of settings' names -> whether these settings play a part in a run; if several prefixes match, all must agree.

A setting without a matching prefix plays a part in every run. So a forgotten entry makes a setting be reported too
often, never too rarely.
"""


def plays_a_part(name: str, run: RunSettings) -> bool:
    """Returns whether a setting can affect a run's result.

    Args:
        name: `section.key` of the setting.
        run: The run.
    """
    return all(has_a_say(run) for beginning, has_a_say in PARTS.items() if name.startswith(beginning))


def difference(first: Run, second: Run) -> dict[str, tuple[Any, Any]]:
    """Returns the settings in which two runs differ, as `{"section.key": (first's, second's)}`.

    Settings that play no part in the runs are compared too. The seed is left out, and so is everything outside of the
    identity (the method's name, `machine`, the evaluations).
    """
    return {name: (setting.value, value) for name, setting, value in _different(first, second)}


def difference_texts(first: Run, second: Run) -> list[str]:
    """Returns the settings in which two runs differ, as `optimization.lr (0.3 and 0.015)`; see `difference`."""
    different = difference(first, second).items()
    return [f"{name} ({shown_value(value)} and {shown_value(its)})" for name, (value, its) in different]


def at_work_in_first(first: Run, second: Run) -> dict[str, str]:
    """Returns the settings that play a part in the first of two runs but not in the second, by section, as text.

    Their values may be the same: if the second run masks nothing, for example, its rates of masking play no part.

    Args:
        first: The run whose settings are returned.
        second: The run that it is compared with.

    Returns:
        For example `{"masking": "guidance=saliency, branch=query"}`. Settings whose value is an empty text are left
        out.
    """
    sections: dict[str, list[str]] = {}
    for name, setting in settings(first).items():
        if setting.value != "" and plays_a_part(name, first) and not plays_a_part(name, second):
            section, _, key = name.partition(".")
            sections.setdefault(section, []).append(f"{key}={shown_value(setting.value)}")
    return {section: ", ".join(texts) for section, texts in sections.items()}


def _different(first: Run, second: Run) -> Iterator[tuple[str, Setting, Any]]:
    """Yields each setting in which two runs differ: its name, the first run's setting, and the second run's value."""
    of_second = settings(second)
    for name, setting in settings(first).items():
        if name in of_second and setting.value != of_second[name].value:
            yield name, setting, of_second[name].value


def departures(run: Run, row: Run) -> tuple[Departure, ...]:
    """Returns the settings in which a run departs from its method's row, in the order of the settings.

    A setting counts if it plays a part in either run: a run that no longer uses the row's localizer departs from it,
    too. Seeds are ignored.

    Args:
        run: The run.
        row: The unchanged run of its method's row, which stands for the paper's.
    """
    return tuple(
        _departure(name, setting, paper, run, row)
        for name, setting, paper in _different(run, row)
        if plays_a_part(name, run) or plays_a_part(name, row)
    )


def _departure(name: str, setting: Setting, paper: Any, run: Run, row: Run) -> Departure:
    smaller = setting.smaller is not None and setting.smaller(setting.value, paper)
    here = setting.value
    if name == DATA and run.data.drawn:
        # Drawn data can be made of any size, and a table must not mix two.
        here = f"{here} ({run.data.scenes.description})"
    # A setting that plays no part in the row has only our default there, not a value of the paper's.
    return Departure(name, here, paper if plays_a_part(name, row) else None, smaller)


def sizes_below_recipe(run: Run) -> tuple[Departure, ...]:
    """Returns the departures that make a run smaller than its framework's recipe, without the method's row.

    All rows of a framework share its recipe (`baselines`), so none of their sizes is missed. Empty for imported
    weights, of whose training nothing is known.
    """
    if run.framework is Framework.external:
        return ()
    return tuple(departure for departure in departures(run, _recipe(run.framework)) if departure.smaller)


@cache
def _recipe(framework: Framework) -> Run:
    return build([{"framework": framework.value, **FRAMEWORKS[framework].recipe}])
