"""The rules: which rows go, what is promised about them, and what is never removed."""
