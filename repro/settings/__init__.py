"""What a run is: its settings, what they may be, and its id. Nothing here imports torch."""
