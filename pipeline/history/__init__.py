"""The memory of a dataset: what earlier audits saw, and what people said about its rows."""
