"""From run folders to one long table of results."""
