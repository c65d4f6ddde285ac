"""The trajectory: recorded weights and optimizer states on disk."""
