"""Saliency, or where the object is: a frozen network's activations, and the foreground that is read off them.

`foreground`, the rule itself, is what a reader of the paper looks for here, so the package exports it.
"""

from repro.saliency.scda import foreground

__all__ = ["foreground"]
