"""A run: its settings, what it is known by, and the folder that holds all that it made. Nothing here needs torch."""
