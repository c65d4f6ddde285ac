"""The result of a finished run, and the comparison of two runs."""
