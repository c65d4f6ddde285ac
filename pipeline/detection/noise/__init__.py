"""How many labels are wrong, and which labels are given instead of which."""
