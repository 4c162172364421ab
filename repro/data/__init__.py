"""Data sets: where they are, what they hold, how a split is opened, and whether one is whole."""
