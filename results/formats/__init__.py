"""How a table looks: its parts, and the files and terminals that show them."""
