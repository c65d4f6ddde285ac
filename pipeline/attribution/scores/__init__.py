"""Scores of rows, and the conductor that goes over all checkpoints and rows."""
