"""Contrastive learning: losses, encoders, batch-norm groups, MoCo v2 and SimCLR."""
