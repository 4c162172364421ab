"""Cluster profiles: what jobs ask for where."""
