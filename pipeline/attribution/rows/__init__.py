"""Rows as batches: how they are given, what is refused, and their derivatives."""
