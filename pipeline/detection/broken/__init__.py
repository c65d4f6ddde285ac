"""Rows whose features are broken, whatever their label."""
