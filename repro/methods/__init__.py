"""A look at the rows of the tables: what each is, what it costs, and what its masking hides."""
