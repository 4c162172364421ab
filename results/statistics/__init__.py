"""How sure a difference is: over seeds, and image by image."""
