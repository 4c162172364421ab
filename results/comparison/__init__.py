"""Two methods, sweeps or runs against each other, image by image."""
