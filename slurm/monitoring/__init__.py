"""What every job of a sweep is doing, and what it used."""
