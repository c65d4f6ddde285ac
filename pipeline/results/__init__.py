"""Finished runs: what an audit gives back, and two of them side by side."""
