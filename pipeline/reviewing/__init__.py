"""Reviews: sheets of rows that people fill in, and their answers."""
