"""Queries: their gradients, how these are compressed, solved for and scaled."""
