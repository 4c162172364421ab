"""The maskings that the rows on a framework differ in: settings that change no other section than `masking`."""

from typing import Any

NONE: dict[str, Any] = {"masking": {"strategy": "none"}}

# The paper's method: patches of the query at the same rate in foreground and background, and a hard negative.
HIGH_PASS: dict[str, Any] = {"masking": {"strategy": "high_pass"}}
STRONG_BLUR: dict[str, Any] = {"masking": {"strategy": "strong_blur"}}
MEAN_FILL: dict[str, Any] = {"masking": {"strategy": "mean_fill"}}

# MSCN (Jing, Zhu, LeCun 2022) has no public code. As the paper's poster depicts it: both views high-passed, masked at
# random and filled with noise; no saliency, no hard negative. Rates and kinds of masks are those of the paper's own
# high-pass masking, which takes them over from MSCN, so that the rows differ in saliency, branch and hard negative
# alone. MSCN's multi-crop is left out, so that all rows see as many pixels.
MSCN: dict[str, Any] = {
    "masking": {"strategy": "high_pass", "guidance": "random", "branch": "both", "hard_negative": False}
}

# ADIOS (Shi et al. 2022), the single-mask version that its authors published for ImageNet-100. Its settings, their
# source and where our rows depart from it: `repro.settings.sections.AdiosSettings`.
ADIOS: dict[str, Any] = {"masking": {"strategy": "learned", "hard_negative": False}}
