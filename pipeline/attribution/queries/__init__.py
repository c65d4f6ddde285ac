"""Queries: their loss gradients and filters, and the compression, refinement and scale of filters."""
