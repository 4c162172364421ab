"""Masking: which patches of a view are hidden, and what stands in their place.

The paper's two filters are useful without the rest, so the package exports them.
"""

from repro.masking.filters import high_pass, strong_blur

__all__ = ["high_pass", "strong_blur"]
