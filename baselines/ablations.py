"""Ablations: rows that change one thing about the paper's method, or about a competitor's, at a time.

They are the rows that a reviewer would ask for; the paper's tables have none of them. The end of a row's name says what
it changes, and `repro.settings.labels` puts that into words.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from repro.settings.sections import FidelitySettings


@dataclass(frozen=True)
class Ablation:
    """One change of a row of table 1."""

    settings: Mapping[str, Any]
    """The changed settings, by dotted keys."""
    row: str = "mocov2+ours-hp"
    """Name of the row that is changed; the paper's headline row unless another is named."""


ON_THE_HEADLINE: Mapping[str, Ablation] = {
    # Is it saliency? Two things change. Without foreground all cells are one stratum, so that the query loses as many
    # patches, but from anywhere. And the hard negative loses the share alpha of the whole view, 27 of 49 patches on
    # average, instead of alpha of the foreground: 17.5 patches, if the foreground is .65 of the view.
    "random": Ablation({"masking.guidance": "random"}),
    # Is it the place of the foreground? It has as many cells as the network finds, but elsewhere in each view. So
    # queries and hard negatives lose as many patches as by saliency.
    "by-network-shuffled": Ablation({"localizer.source": "network-shuffled"}),
    # Is it masking at all, or the high-pass filter?
    "no-masks": Ablation(
        {
            "masking.guidance": "random",
            "masking.ratio_min": 0.0,
            "masking.ratio_max": 0.0,
            "masking.focal_probability": 0.0,
            "masking.hard_negative": False,
        },
    ),
    # Is it the hard negative, and how much of it?
    "no-hard-negative": Ablation({"masking.hard_negative": False}),
    "rho1": Ablation({"moco.hard_negative_weight": 1.0}),
    "rho4": Ablation({"moco.hard_negative_weight": 4.0}),
    # How much is masked? The paper's is 5 to 25 %.
    "ratio0.25-0.45": Ablation({"masking.ratio_min": 0.25, "masking.ratio_max": 0.45}),
    "ratio0.45-0.65": Ablation({"masking.ratio_min": 0.45, "masking.ratio_max": 0.65}),
    "no-focal": Ablation({"masking.focal_probability": 0.0}),
    # Whose saliency? The paper's localizer has seen the labels of the very classes that are learned here.
    "localizer-efficientnet": Ablation({"localizer.network": "efficientnet-lite0"}),
    "localizer-random": Ablation({"localizer.weights": "random"}),
    "localizer-checkpoint": Ablation(
        # the caller says which one: localizer.weights=RUN/backbone.pth
        {"localizer.network": "checkpoint", "localizer.weights": ""},
    ),
    # What the released code does differently from the paper: all of it, then switch by switch.
    "released": Ablation({"fidelity": "released"}),
    **{
        f"released-{f.name.replace('_', '-')}": Ablation({f"fidelity.{f.name}": "released"})
        for f in fields(FidelitySettings)
    },
    # Replaces the switch of that name from the loop above. Alone it would change nothing, since only the released
    # counts can be negative.
    "released-negative-count": Ablation(
        {"fidelity.counts": "released", "fidelity.negative_count": "released"},
    ),
}
"""Ablations of the headline row, by what follows its name."""

ABLATIONS: Mapping[str, Ablation] = {
    **{f"{ablation.row}-{name}": ablation for name, ablation in ON_THE_HEADLINE.items()},
    # The paper's rho = 2 weighs more among SimCLR's 510 negatives than among MoCo's 65,536.
    "simclr+ours-hp-rho1": Ablation({"simclr.hard_negative_weight": 1.0}, row="simclr+ours-hp"),
    **{
        f"simclr+ours-hp-{name}": Ablation(ON_THE_HEADLINE[name].settings, row="simclr+ours-hp")
        for name in ("no-hard-negative", "no-masks", "random")
    },
    "simclr+ours-hp-anchor-both": Ablation({"simclr.hard_negative_anchor": "both"}, row="simclr+ours-hp"),
    "simclr+ours-hp-stopgrad": Ablation({"simclr.hard_negative_stopgrad": True}, row="simclr+ours-hp"),
    "simclr+ours-hp@both": Ablation({"masking.branch": "both"}, row="simclr+ours-hp"),
    # MSCN masks both views; the paper's own rows mask the query.
    "mocov2+mscn@query": Ablation({"masking.branch": "query"}, row="mocov2+mscn"),
    # The paper's queue of 65,536 keys is as long as half of its 126,689 images. So it may still hold an image's last
    # key when the image comes again: a false negative. A public MoCo v2 with this shorter queue, on the same classes,
    # backbone and epochs but with another learning rate, is ten points above the paper's (results/paper/README.md).
    "mocov2+queue16k": Ablation({"moco.queue": 16384}, row="mocov2"),
    # The values of the authors' script, where our ADIOS row has those of SimCLR's recipe (`AdiosSettings`). Encoder and
    # epochs stay those of the tables, ResNet-50 and 200; the script has ResNet-18 and 400.
    "simclr+adios-script": Ablation(
        {
            "optimization.batch": 128,
            "optimization.lr": 0.18955780763100336,  # not scaled by the batch
            "optimization.interval": "epoch",  # warm-up and cosine move once an epoch; 10 epochs of warm-up, as in ours
            "adios.lr": 0.4987622134866454,  # in ours it is rounded
            "augmentation.brightness": 0.7,
            "augmentation.contrast": 0.6,
            "augmentation.hue": 0.15,
        },
        row="simclr+adios",
    ),
    # The authors' ADIOS proper: four forward passes where the single-mask version makes one.
    "simclr+adios-all-masks": Ablation({"adios.single": False}, row="simclr+adios"),
}
"""All ablations, by the name of the new row."""
