"""A step of a training: what becomes of a batch before the loss, and how its gradient becomes an update."""
