"""Single jobs of no sweep: a benchmark or a look at a node."""
