"""The rows on MoCo v2: plain, and with the paper's masking.

The recipe is the default Run: ResNet-50, 200 epochs, batch 128 in four batch-norm groups, learning rate 0.015, queue
65,536 (released README and main_moco.py). The rows of a block differ in `masking` alone.
"""

from typing import Any

PLAIN: dict[str, Any] = {"framework": "mocov2", "masking.strategy": "none"}
HIGH_PASS = PLAIN | {"masking.strategy": "high_pass"}
STRONG_BLUR = PLAIN | {"masking.strategy": "strong_blur"}
MEAN_FILL = PLAIN | {"masking.strategy": "mean_fill"}
