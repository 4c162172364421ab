"""Batches of a training, by seed, epoch and index: loaded, or drawn from images that are on the device already."""
