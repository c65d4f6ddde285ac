"""Differentiation through recorded training: recorders, bit-for-bit replay, and the adjoints of optimizer steps."""
