"""The model under attribution: its covered parameters, the capture of gradients, its modes and precision."""
