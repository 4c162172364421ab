"""The room that turns measured rows into the tables, plots and pages of the paper. It imports no torch."""
