"""Checkpoints of a training: written beside it, and restored so that it goes on exactly where it stopped."""
