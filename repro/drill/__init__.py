"""A drill: faults are made for real on this machine or a cluster, and the outcome must be as if there had been none."""
