"""The run directory: its files, its lock, the list of runs, and the context and watchers of stages."""
