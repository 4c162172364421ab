"""A look at the rows of the tables: their settings, what a training step costs, and what their masking hides."""
