"""What a training shows while it runs: progress, metrics, representations, pictures and warnings."""
