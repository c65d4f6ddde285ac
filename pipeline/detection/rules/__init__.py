"""The rules: which rows are removed, what is guaranteed about them, and which rows are never removed."""
