"""Trajectories: the recording of a training run, and its weights and optimizer state on disk."""
