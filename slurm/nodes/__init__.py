"""Single jobs of no sweep: a benchmark or a probe of a node."""
