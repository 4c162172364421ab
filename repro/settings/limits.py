"""The rules for every run: ranges of values, and settings that exclude each other."""

import re
from collections.abc import Callable, Iterator, Mapping

from repro.errors import UserError, nearest
from repro.settings.choices import (
    FILTER_TAPS,
    LEAST_CACHED,
    LONGEST_CACHED,
    Backend,
    Blur,
    Branch,
    Interpolation,
    Resizer,
    Source,
    Strategy,
)
from repro.settings.detection import COCO_SCHEDULES, LEAST_SIDE
from repro.settings.frameworks import FRAMEWORKS
from repro.settings.identity import keys, value_of
from repro.settings.network_names import LOCALIZERS, RESNETS, is_localizer
from repro.settings.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Limit, Problem
from repro.settings.saliency_sources import SaliencySource, SourceKind
from repro.settings.sections import Framework, LocalizerSettings, RunSettings

LIMITS: Mapping[str, Limit] = {
    "seed": NOT_NEGATIVE,
    "data.crop": COUNT,
    "data.cached_side": Limit(high=LONGEST_CACHED),
    "data.scenes.classes": COUNT,
    "data.scenes.size": Limit(low=64, high=512),
    "data.scenes.train_count": COUNT,
    "data.scenes.val_count": COUNT,
    "data.scenes.seed": NOT_NEGATIVE,
    "data.scenes.grounds": NOT_NEGATIVE,
    "data.scenes.context": SHARE,
    "data.scenes.members": NOT_NEGATIVE,
    "data.scenes.colour": SHARE,
    "augmentation.crop_scale_min": Limit(high=1.0, above=True),
    "augmentation.brightness": NOT_NEGATIVE,
    "augmentation.contrast": NOT_NEGATIVE,
    "augmentation.saturation": NOT_NEGATIVE,
    "augmentation.hue": Limit(high=0.5),
    "augmentation.jitter_probability": SHARE,
    "augmentation.grey_probability": SHARE,
    "augmentation.blur_probability": SHARE,
    "augmentation.blur_sigma_min": NOT_NEGATIVE,
    "augmentation.blur_sigma_max": NOT_NEGATIVE,
    "augmentation.flip_probability": SHARE,
    "localizer.relax": NOT_NEGATIVE,
    "localizer.image_side": Limit(low=128, high=1024),
    "masking.ratio_min": SHARE,
    "masking.ratio_max": SHARE,
    "masking.hard_ratio_min": SHARE,
    "masking.hard_ratio_max": SHARE,
    "masking.focal_probability": SHARE,
    "masking.spatial_share": SHARE,
    "masking.noise_std": NOT_NEGATIVE,
    "masking.hard_noise_std": NOT_NEGATIVE,
    "encoder.dim": COUNT,
    "encoder.width": Limit(low=4),
    "adios.masks": Limit(low=2),
    "adios.base_filters": COUNT,
    "adios.lr": POSITIVE,
    "adios.momentum": SHARE,
    "adios.weight_decay": NOT_NEGATIVE,
    "adios.alpha_sparsity": NOT_NEGATIVE,
    "adios.alpha_entropy": NOT_NEGATIVE,
    "optimization.epochs": COUNT,
    "optimization.batch": Limit(low=2),
    "optimization.lr": POSITIVE,
    "optimization.momentum": SHARE,
    "optimization.weight_decay": NOT_NEGATIVE,
    "optimization.lars_eta": POSITIVE,
    "optimization.step_share": Limit(high=1.0, above=True),
    "optimization.warmup_share": SHARE,
    "probe.epochs": COUNT,
    "probe.batch": COUNT,
    "probe.lr": POSITIVE,
    "probe.momentum": SHARE,
    "probe.weight_decay": NOT_NEGATIVE,
    "probe.splits": COUNT,
    "logistic.l2_low": POSITIVE,
    "logistic.l2_high": POSITIVE,
    "logistic.values": COUNT,
    "logistic.iterations": COUNT,
    "logistic.splits": COUNT,
    "knn.temperature": Limit(low=0.002),  # a vote is at most exp(1 / T), which overflows below 0.0014
    "finetune.epochs": NOT_NEGATIVE,
    "finetune.batch": Limit(low=2),
    "finetune.lr": POSITIVE,
    "finetune.momentum": SHARE,
    "finetune.weight_decay": NOT_NEGATIVE,
    "detection.trials": NOT_NEGATIVE,
    "detection.batch": NOT_NEGATIVE,
    "detection.iterations": NOT_NEGATIVE,
    "detection.base_lr": POSITIVE,
    "detection.min_size": NOT_NEGATIVE,
    "detection.rois": NOT_NEGATIVE,
    "detection.scene_objects": COUNT,
    "machine.workers": Limit(high=1024),
    "machine.log_every": COUNT,
    "machine.monitor_images": Limit(0, 100_000),
    "machine.checkpoint_every": COUNT,
}
"""Ranges of the settings that every run has, by `section.key`; a framework's own are in its entry."""
ALL_LIMITS: Mapping[str, Limit] = {
    **LIMITS,
    **{key: limit for entry in FRAMEWORKS.values() for key, limit in entry.limits.items()},
}
"""Ranges of the settings of all frameworks, not only of a run's own: sections that a run does not use are in its
`run.yaml`, too, and are part of its id."""
ASCENDING = (
    ("masking.ratio_min", "masking.ratio_max"),
    ("masking.hard_ratio_min", "masking.hard_ratio_max"),
    ("augmentation.blur_sigma_min", "augmentation.blur_sigma_max"),
    ("logistic.l2_low", "logistic.l2_high"),
)
"""Pairs of settings of which the first must not be larger than the second."""
DEVICES = ("auto", "cpu", "cuda")
METHOD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+@_-]{0,99}")
"""Allowed names of methods; each also names a folder."""
METHOD_NAME_MEND = "letters, digits and . + @ _ - only, 100 at most, a letter or a digit first"
"""The mend for a name that is not allowed."""
LARGEST_WHOLE = 2**31 - 1
"""Largest whole number of a setting: libraries keep them in a C int."""


def problems(run: RunSettings) -> Iterator[Problem]:
    """Yields everything that is wrong with a run, in the order of `RULES`.

    Args:
        run: The settings; not yet a `Run`, which exists only without problems.
    """
    for rule in RULES:
        yield from rule(run)


def _method_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields a method's name that cannot name a folder."""
    if not METHOD_NAME.fullmatch(run.method):
        yield Problem(f"method={run.method!r} cannot name a folder", mend=METHOD_NAME_MEND)


def _number(run: RunSettings, key: str) -> float:
    """Returns the number that a setting, `section.key`, has in a run."""
    return value_of(key)(run)


def _range_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields each number that is out of its range."""
    for key, limit in ALL_LIMITS.items():
        if not limit.allows(value := _number(run, key)):
            yield Problem(f"{key}={value:g} is out of range", mend=f"{limit}")


def _order_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields each range whose lower end is above its upper one."""
    for low, high in ASCENDING:
        if (least := _number(run, low)) > (largest := _number(run, high)):
            yield Problem(f"{low}={least:g} is larger than {high}={largest:g}", mend="swap them")


def _device_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields an unknown device."""
    if run.machine.device not in DEVICES:
        yield Problem(f"machine.device={run.machine.device} is unknown", mend=f"one of {', '.join(DEVICES)}")


def _detection_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields what is wrong with detection beyond its ranges."""
    detection = run.detection
    if detection.coco_schedule not in COCO_SCHEDULES:
        yield Problem(
            f"detection.coco_schedule={detection.coco_schedule} is unknown", mend=f"one of {', '.join(COCO_SCHEDULES)}"
        )
    if 0 < detection.min_size < LEAST_SIDE:
        yield Problem(f"detection.min_size={detection.min_size} is out of range", mend=f"0, or {LEAST_SIDE} or more")


def _cached_side_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields a side at which no image can be cached."""
    if 0 < (side := run.data.cached_side) < LEAST_CACHED:
        yield Problem(
            f"data.cached_side={side} is out of range",
            mend=f"0 for the originals, or {Limit(low=LEAST_CACHED, high=LONGEST_CACHED)}",
        )


def _schedule_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields a warm-up that takes all epochs."""
    if run.optimization.warmup_share == 1:
        yield Problem("optimization.warmup_share=1 leaves no epoch to the schedule", mend="a smaller share")


def _resizer_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields an interpolation that torch does not compute as Pillow does."""
    resizer, interpolation = run.augmentation.resizer, run.augmentation.interpolation
    if resizer is Resizer.torch and interpolation is not Interpolation.bilinear:
        yield Problem(
            f"augmentation.resizer=torch departs from Pillow with augmentation.interpolation={interpolation.name}",
            mend="augmentation.resizer=pil, or augmentation.interpolation=bilinear",
        )


def _framework_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields what the framework alone finds wrong with a run."""
    yield from FRAMEWORKS[run.framework].all_problems(run)


def _kernel_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields each Gaussian kernel that reaches further than a view's side: a border reflects a view only once."""
    strategy, augmentation = run.masking.strategy, run.augmentation
    # Pillow's blur and the box blur repeat the border's pixel instead; imported weights see no such views.
    is_gaussian = augmentation.backend is Backend.device and augmentation.blur is Blur.gaussian
    is_drawn = augmentation.blur_probability > 0 and run.framework is not Framework.external
    for cause, taps in (
        ("augmentation.blur=gaussian", augmentation.blur_taps if is_gaussian and is_drawn else 1),
        (f"masking.strategy={strategy.name}", FILTER_TAPS.get(strategy, 1)),
    ):
        if run.data.crop <= taps // 2:
            yield Problem(
                f"data.crop={run.data.crop} is too small for {cause}, which reaches {taps // 2} pixels to each side",
                mend=f"data.crop={taps // 2 + 1} or more",
            )


def _encoder_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields what is wrong with the encoder's network."""
    encoder = run.encoder
    if encoder.arch not in RESNETS:
        what = f"encoder.arch={encoder.arch} is not a ResNet of torchvision"
        yield Problem(what, mend=nearest(encoder.arch, RESNETS))
    if encoder.width % 4:
        yield Problem(f"encoder.width={encoder.width} is not a multiple of 4", mend="encoder.width=16, for example")


def _whole_number_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields each whole number that is too large for the libraries that it goes to."""
    for key in keys(type(run)):
        value = value_of(key)(run)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, int) and abs(item) > LARGEST_WHOLE:
                yield Problem(f"{key}={item:.6g} is out of range", mend=f"{LARGEST_WHOLE} or less")


def _scenes_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields settings of the built-in scenes that exclude each other."""
    scenes = run.data.scenes
    if scenes.context and scenes.grounds < scenes.classes:
        yield Problem(
            f"data.scenes.context={scenes.context:g} needs a ground of its own for each of {scenes.classes} classes, "
            f"and data.scenes.grounds={scenes.grounds}",
            mend=f"data.scenes.grounds={scenes.classes} or more, or data.scenes.context=0",
        )
    if scenes.colour and run.data.dataset == "scenes-cutouts":
        problem = f"data.scenes.colour={scenes.colour:g}: objects of data.dataset=scenes-cutouts keep their colours"
        yield Problem(problem, mend="data.scenes.colour=0, or data.dataset=scenes")


def _resident_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields settings that exclude `machine.resident`: images are cropped to Pillow's pixels, on the device."""
    if not run.machine.resident:
        return
    for key, value, needed in (
        ("augmentation.backend", run.augmentation.backend, Backend.device),
        ("augmentation.resizer", run.augmentation.resizer, Resizer.pil),
    ):
        if value is not needed:
            yield Problem(f"machine.resident=true excludes {key}={value.name}", mend=f"{key}={needed.name}")


def _evaluation_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields what is wrong with how a run's backbone is evaluated, and with where imported weights come from."""
    for key, items, limit in (
        ("probe.lr_grid", run.probe.lr_grid, POSITIVE),
        ("knn.neighbours", run.knn.neighbours, COUNT),
    ):
        for item in items:
            if not limit.allows(item):
                yield Problem(f"{key} holds {item:g}, which is out of range", mend=f"{limit}")
            elif items.count(item) > 1:  # both would be measured, under one name
                yield Problem(f"{key} holds {item:g} twice", mend="take one out")
    if not run.knn.neighbours:
        yield Problem("knn.neighbours is empty", mend="knn.neighbours=[20,200]")
    if (run.framework is Framework.external) is not bool(run.imported.weights):
        yield Problem(
            "framework=external and imported.weights go together", mend="salmask eval --checkpoint FILE sets both"
        )


def _source_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields what is wrong with where the foreground comes from."""
    settings = {
        f"localizer.{name}": getattr(run.localizer, name)
        for name in ("source", "hard_negative_source")
        if getattr(run.localizer, name)
    }
    for key, text in settings.items():
        try:
            source = SaliencySource.parse(text)
        except UserError as error:
            yield Problem(f"{key}: {error.what}", mend=error.mend)
            continue
        if run.guided and source.needs_truth and run.fidelity.saliency_map is Source.released:
            yield Problem(
                f"fidelity.saliency_map=released sorts what a network finds, and {key}={text} is by true masks",
                mend="fidelity.saliency_map=paper",
            )
        if source.needs_files and not run.localizer.files:
            yield Problem(f"{key}={text} without files", mend="localizer.files=DIR, with a map of each image")
        if source.needs_files and run.data.drawn:
            yield Problem(f"{key}={text} on drawn scenes, which are no files", mend=f"{key}=truth")
    if (run.localizer.files or run.localizer.files_sha256) and SourceKind.maps not in settings.values():
        yield Problem(
            f"localizer.files play no part with localizer.source={run.localizer.source}",
            mend="localizer.source=maps, or leave them out",
        )
    if (run.data.masks or run.data.masks_sha256) and run.data.drawn:
        yield Problem("data.masks play no part on drawn scenes, which have masks of their own", mend="leave them out")
    if run.localizer.hard_negative_source and not (run.masking.branch is Branch.query and run.masking.hard_negative):
        yield Problem(
            "localizer.hard_negative_source needs a key that is not masked itself and a hard negative of it",
            mend="masking.branch=query and masking.hard_negative=true, or leave it out",
        )


def _localizer_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields what is wrong with the localizer's network, and with what it sees."""
    localizer, default = run.localizer, LocalizerSettings.weights
    if localizer.image_side % 32:
        yield Problem(
            f"localizer.image_side={localizer.image_side} is not a multiple of 32",
            mend=f"localizer.image_side={32 * round(localizer.image_side / 32)}",
        )
    if not is_localizer(localizer.network):
        yield Problem(f"localizer.network={localizer.network} is unknown", mend=nearest(localizer.network, LOCALIZERS))
    if localizer.network == "checkpoint" and not localizer.sha256 and localizer.weights in (default, "random"):
        mend = "localizer.weights=RUN/backbone.pth of a finished run"
        yield Problem("localizer.network=checkpoint without a file", mend=mend)
    # Any other network has weights of its own, or random ones; the default names weights of the ResNet-50.
    if localizer.network not in ("resnet50", "checkpoint") and localizer.weights not in (default, "random"):
        yield Problem(
            f"localizer.weights={localizer.weights} plays no part with localizer.network={localizer.network}, "
            "which has its own",
            mend="leave it out; localizer.network=checkpoint reads a file",
        )
    if localizer.sha256 and localizer.network != "checkpoint":
        yield Problem(
            f"localizer.sha256 is a checkpoint's, and localizer.network={localizer.network} is none",
            mend="leave it out",
        )


def _learned_mask_problems(run: RunSettings) -> Iterator[Problem]:
    """Yields settings that exclude learned masks."""
    masking = run.masking
    if masking.strategy is not Strategy.learned:
        return
    if masking.branch is not Branch.query:
        yield Problem(
            f"masking.branch={masking.branch.name} excludes learned masks: only the query's gradient reaches the "
            "occlusion network",
            mend="masking.branch=query",
        )
    if masking.hard_negative:
        yield Problem(
            "masking.hard_negative=true excludes learned masks: they know no foreground to take from the key",
            mend="masking.hard_negative=false",
        )


RULES: tuple[Callable[[RunSettings], Iterator[Problem]], ...] = (
    _method_problems,
    # Ranges come first: the rules below may divide by a setting, and rely on its range.
    _range_problems,
    _whole_number_problems,
    _order_problems,
    _cached_side_problems,
    _scenes_problems,
    _device_problems,
    _detection_problems,
    _encoder_problems,
    _schedule_problems,
    _resizer_problems,
    _kernel_problems,
    _resident_problems,
    _evaluation_problems,
    # A framework's rules come before those of masks: if it allows no masks at all, no other problem of them matters.
    _framework_problems,
    _localizer_problems,
    _source_problems,
    _learned_mask_problems,
)
"""The rules, in this order; a run is refused with its first problem only."""
