"""From measured rows to the pages of the paper. Imports no torch."""
