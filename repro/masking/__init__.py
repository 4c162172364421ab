"""Masking: which patches of a view are hidden, and what stands in their place.

The two filters of the paper are useful without the rest, so the room's door shows them.
"""

from repro.masking.filters import high_pass, strong_blur

__all__ = ["high_pass", "strong_blur"]
