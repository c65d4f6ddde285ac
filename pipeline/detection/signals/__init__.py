"""Signals: the evidence about every row, a file each."""
