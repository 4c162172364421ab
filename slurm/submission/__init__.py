"""Jobs to Slurm."""
