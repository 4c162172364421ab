"""From sweeps to jobs."""
