"""From a run to its backbone: batches, views, the loop with its hooks, and what makes it resumable."""
