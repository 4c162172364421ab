"""The harness core and the paper's own method."""

__version__ = "0.1.0"
"""The version of salmask, here alone: packaging reads it, and `CITATION.cff` is held to it by a test."""
