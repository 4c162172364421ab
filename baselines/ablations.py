"""Ablations: rows that change one thing about the paper's method, or about a competitor's, at a time.

They are the rows that a reviewer would ask for; the paper's tables have none of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from repro.runs.sections import FidelitySettings


@dataclass(frozen=True)
class Ablation:
    """One change of a row of table 1."""

    title: str
    """What is changed, as it follows the row's own title."""
    settings: Mapping[str, Any]
    """The changed settings, by dotted keys."""
    row: str = "mocov2+ours-hp"
    """Name of the row that is changed; the paper's headline row unless another is named."""


ON_THE_HEADLINE: Mapping[str, Ablation] = {
    # Is it saliency?
    "random": Ablation("patches drawn without saliency", {"masking.guidance": "random"}),
    # Is it masking at all, or the high-pass filter?
    "no-masks": Ablation(
        "high-pass filter alone",
        {
            "masking.guidance": "random",
            "masking.ratio_min": 0.0,
            "masking.ratio_max": 0.0,
            "masking.focal_probability": 0.0,
            "masking.hard_negative": False,
        },
    ),
    # Is it the hard negative, and how much of it?
    "no-hard-negative": Ablation("no hard negative", {"masking.hard_negative": False}),
    "rho1": Ablation("hard negative of weight 1", {"moco.hard_negative_weight": 1.0}),
    "rho4": Ablation("hard negative of weight 4", {"moco.hard_negative_weight": 4.0}),
    # How much is masked? The paper's is 5 to 25 %.
    "ratio0.25-0.45": Ablation("25 to 45 % masked", {"masking.ratio_min": 0.25, "masking.ratio_max": 0.45}),
    "ratio0.45-0.65": Ablation("45 to 65 % masked", {"masking.ratio_min": 0.45, "masking.ratio_max": 0.65}),
    "no-focal": Ablation("no focal masks", {"masking.focal_probability": 0.0}),
    # Whose saliency? The paper's localizer has seen the labels of the very classes that are learned here.
    "localizer-efficientnet": Ablation("EfficientNet-Lite0 as localizer", {"localizer.network": "efficientnet-lite0"}),
    "localizer-random": Ablation("untrained ResNet-50 as localizer", {"localizer.weights": "random"}),
    "localizer-checkpoint": Ablation(
        "a backbone of our own as localizer",  # which one, the person says: localizer.weights=RUN/backbone.pth
        {"localizer.network": "checkpoint", "localizer.weights": ""},
    ),
    # What the released code does otherwise than the paper says: all of it, then switch by switch.
    "released": Ablation("as released", {"fidelity": "released"}),
    **{
        f"released-{f.name.replace('_', '-')}": Ablation(
            f"{f.name.replace('_', ' ')} as released", {f"fidelity.{f.name}": "released"}
        )
        for f in fields(FidelitySettings)
    },
    # Replaces the switch of that name from the loop above: alone it would change nothing, since a count can be negative
    # only where counts are released too.
    "released-negative-count": Ablation(
        "counts and negative count as released",
        {"fidelity.counts": "released", "fidelity.negative_count": "released"},
    ),
}
"""Ablations of the headline row, by what follows its name."""

ABLATIONS: Mapping[str, Ablation] = {
    **{f"{ablation.row}-{name}": ablation for name, ablation in ON_THE_HEADLINE.items()},
    # The paper's rho = 2 weighs more among SimCLR's 510 negatives than among MoCo's 65,536.
    "simclr+ours-hp-rho1": Ablation(
        "hard negative of weight 1", {"simclr.hard_negative_weight": 1.0}, row="simclr+ours-hp"
    ),
    "simclr+ours-hp-no-hard-negative": Ablation(
        "no hard negative", {"masking.hard_negative": False}, row="simclr+ours-hp"
    ),
    "simclr+ours-hp-anchor-both": Ablation(
        "keys meet the hard negative too", {"simclr.hard_negative_anchor": "both"}, row="simclr+ours-hp"
    ),
    "simclr+ours-hp-stopgrad": Ablation(
        "hard negative without gradient", {"simclr.hard_negative_stopgrad": True}, row="simclr+ours-hp"
    ),
    "simclr+ours-hp@both": Ablation("both masked", {"masking.branch": "both"}, row="simclr+ours-hp"),
    # MSCN masks both views; the paper's own rows mask the query.
    "mocov2+mscn@query": Ablation("query masked", {"masking.branch": "query"}, row="mocov2+mscn"),
    # The paper's queue of 65,536 keys is half of its 126,689 images: it holds images' own last keys, each a false
    # negative where its image's query meets it again. A public MoCo v2 with this shorter queue, on the same classes,
    # backbone and epochs but with another rate, is ten points above the paper's (results/paper/README.md).
    "mocov2+queue16k": Ablation("queue of 16,384 keys", {"moco.queue": 16384}, row="mocov2"),
    # What our ADIOS row has of SimCLR's recipe instead of the authors' script (`AdiosSettings`). Encoder and epochs
    # stay the tables', ResNet-50 and 200, where the script has ResNet-18 and 400.
    "simclr+adios-script": Ablation(
        "rate, batch, jitter and warm-up of the authors' script",
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
    "simclr+adios-all-masks": Ablation("every mask at each step", {"adios.single": False}, row="simclr+adios"),
}
"""All ablations, by the name of the new row."""
