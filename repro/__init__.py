"""The harness core and the paper's own method."""
