"""How commands take words and print: names and options, text, tables and progress, safe for a terminal."""
