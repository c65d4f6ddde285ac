"""The run directory: its files, the list of runs, results and the rows that a run was made from."""
