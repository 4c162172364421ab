"""A run: its settings, its id, and the folder that holds everything it produced. Nothing here imports torch."""
