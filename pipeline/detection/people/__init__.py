"""People's input: their answers about a sample of rows, and their decisions."""
