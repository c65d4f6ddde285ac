"""Differentiating through recorded training: recorders, bit-for-bit replay, and the adjoint of its steps."""
