"""Processes: how many there are, what each may use, and how they work together."""
