"""Asking people about rows."""
