"""Cluster profiles: what jobs ask for on which cluster."""
