"""Contrastive learning: losses, encoders, batch-norm groups, MoCo v2 and SimCLR.

The two losses are functions of embeddings alone and useful without the rest, so the package exports them.
"""

from repro.contrastive.losses import info_nce, nt_xent

__all__ = ["info_nce", "nt_xent"]
