"""What a run leaves: its folder, and the records in it. Nothing here imports torch."""
