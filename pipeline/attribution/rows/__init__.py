"""Rows of data as batches: their types, the checks on them, and derivatives of their losses."""
