"""The way from a run to its backbone: batches, views, the training loop with its hooks, and resumable checkpoints."""
