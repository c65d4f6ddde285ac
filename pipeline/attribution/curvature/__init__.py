"""Curvature along the trajectory: factors, eigenbases, what is done to a gradient in a segment."""
