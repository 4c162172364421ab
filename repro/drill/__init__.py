"""A drill: faults that are made for real, on the machine at hand, and whether what follows is as if there were none."""
