"""Kinds of features: what a column can be, and all that depends on it. `kinds/` has a file for each."""
