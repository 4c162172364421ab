"""Foreign checkpoints in which the network to evaluate is clear, and those in which a person must choose it."""

from collections.abc import Callable
from typing import Any

from foreign_layouts import (
    barlow_twins,
    compiled,
    compiled_parts,
    deepcluster_v2,
    dino,
    encoder_with_heads,
    mmselfsup,
    moco_v2,
    moco_v3,
    open_self_sup,
    own_backbone,
    simsiam,
    swav,
    timm_train,
    timm_weights,
    torchvision,
    torchvision_references,
    vissl,
    without_counters,
)
from foreign_layouts_lightning import (
    lightly_byol,
    lightly_dino,
    lightly_example,
    lightly_moco_v2,
    lightly_moco_v2_early,
    lightly_parameters,
    lightly_swav,
    solo_learn,
)
from foreign_parts import Layout, network

ACCEPTED: dict[str, Callable[[], Layout]] = {
    function.__name__: function
    for function in (
        torchvision,
        torchvision_references,
        timm_weights,
        timm_train,
        moco_v2,
        moco_v3,
        simsiam,
        barlow_twins,
        swav,
        deepcluster_v2,
        vissl,
        lightly_moco_v2,
        lightly_byol,
        lightly_swav,
        lightly_example,
        lightly_parameters,
        solo_learn,
        mmselfsup,
        open_self_sup,
        compiled,
        compiled_parts,
        encoder_with_heads,
        without_counters,
        own_backbone,
    )
}
"""Layouts in which one network is the one to evaluate."""


AMBIGUOUS: dict[str, tuple[Callable[[], dict[str, Any]], tuple[str, ...]]] = {
    "dino": (lambda: dino().content, ("student.module.backbone.", "teacher.module.backbone.")),
    "lightly_dino": (lightly_dino, ("state_dict.backbone.", "state_dict.student_backbone.")),
    "lightly_moco_v2_early": (
        lightly_moco_v2_early,
        ("state_dict.backbone.", "state_dict.query_backbone."),
    ),
    "bare_beside_another": (
        lambda: {**network(0).state_dict(), "other": network(1).state_dict()},
        (".", "other."),
    ),
}
"""Layouts in which one network must be named, with the prefixes to choose from."""
