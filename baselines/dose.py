"""The rows of the dose-response: the headline row with foreground of graded quality, on images with true masks.

`salmask sweep saliency-dose` runs them, and `salmask plot saliency-dose` draws accuracy against the foreground's IoU.
"""

from collections.abc import Mapping

from baselines.ablations import Ablation

SOURCES = (
    "truth",
    "truth-dilated-1",
    "truth-dilated-2",
    "truth-eroded-1",
    "truth-shifted-2",
    "truth-shifted-4",
    "centre",
    "random",
    "inverted",
)
"""Sources of foreground for query masks and hard negatives alike, besides the frozen network."""
DEGRADED = ("truth-shifted-2", "truth-shifted-4", "random", "inverted")
"""Sources of foreground for one of the two, while the other uses the true mask."""

DOSE: Mapping[str, Ablation] = {
    **{f"mocov2+ours-hp-by-{source}": Ablation({"localizer.source": source}) for source in SOURCES},
    **{
        f"mocov2+ours-hp-hard-by-{source}": Ablation(
            {"localizer.source": "truth", "localizer.hard_negative_source": source},
        )
        for source in DEGRADED
    },
    **{
        f"mocov2+ours-hp-query-by-{source}": Ablation(
            {"localizer.source": source, "localizer.hard_negative_source": "truth"},
        )
        for source in DEGRADED
    },
}
"""The rows by name."""
