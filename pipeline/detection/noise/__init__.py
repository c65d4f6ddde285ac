"""Estimates of label noise: how many labels are wrong, and which labels are given instead of which."""
